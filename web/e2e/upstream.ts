// A model that speaks the protocol of OpenAI, and says what the test tells it, when the test tells it.
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** One reply that the model was asked for. */
export class Reply {
  /** All messages that the model was sent. */
  readonly messages: { role: string; content: string }[];
  isClosed = false;

  constructor(
    messages: Reply["messages"],
    private readonly response: ServerResponse,
  ) {
    this.messages = messages;
    response.on("close", () => (this.isClosed = true));
  }

  /** The newest message of the user. */
  get asked(): string {
    return this.messages.findLast((message) => message.role === "user")?.content ?? "";
  }

  /** Says a piece of the reply. */
  say(text: string): void {
    this.#chunk({ delta: { content: text } });
  }

  end(finishReason = "stop"): void {
    this.#chunk({ delta: {}, finish_reason: finishReason });
    this.response.end("data: [DONE]\n\n");
  }

  /** Refuses, as a server that is overloaded. Only before anything was said. */
  refuse(): void {
    this.response.writeHead(500, { "content-type": "application/json" }).end('{"error":{"message":"overloaded"}}');
  }

  /** Dies in the middle of the reply. */
  break(): void {
    this.response.destroy();
  }

  #chunk(choice: object): void {
    if (!this.response.headersSent) this.response.writeHead(200, { "content-type": "text/event-stream" });
    const chunk = {
      id: "1",
      object: "chat.completion.chunk",
      created: 1,
      model: "m",
      choices: [{ index: 0, finish_reason: null, ...choice }],
    };
    this.response.write(`data: ${JSON.stringify(chunk)}\n\n`);
  }
}

/** The model. Without a script it repeats what it is asked, at once. */
export class Upstream {
  readonly replies: Reply[] = [];
  readonly url: string;
  #script: (reply: Reply) => unknown = repeat;

  private constructor(private readonly server: Server) {
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
  }

  static async start(): Promise<Upstream> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const upstream = new Upstream(server);
    server.on("request", async (request, response) => {
      let body = "";
      for await (const chunk of request) body += chunk;
      const reply = new Reply(JSON.parse(body).messages, response);
      upstream.replies.push(reply);
      upstream.#script(reply);
    });
    return upstream;
  }

  /** Sets what happens with each reply from now on. */
  script(script: (reply: Reply) => unknown): void {
    this.#script = script;
  }

  /** From now on, every reply is this text. */
  answer(text: string): void {
    this.#script = (reply) => {
      reply.say(text);
      reply.end();
    };
  }

  /** From now on, every reply repeats what was asked. */
  repeat(): void {
    this.#script = repeat;
  }

  /** From now on, replies wait for the test. Returns how to wait for the next one. */
  hold(): () => Promise<Reply> {
    const held: Reply[] = [];
    const waiting: ((reply: Reply) => void)[] = [];
    this.#script = (reply) => {
      const next = waiting.shift();
      if (next) next(reply);
      else held.push(reply);
    };
    return () => {
      const reply = held.shift();
      return reply ? Promise.resolve(reply) : new Promise((resolve) => waiting.push(resolve));
    };
  }

  stop(): void {
    this.server.closeAllConnections();
    this.server.close();
  }
}

function repeat(reply: Reply): void {
  for (const char of `你说：${reply.asked}`) reply.say(char);
  reply.end();
}
