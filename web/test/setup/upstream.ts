/** A model server that does what the newest message says: the stand-in for an OpenAI-compatible upstream. */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What a message of a test makes the model do. Every other message is repeated. */
export interface Script {
  /** The reply, as the pieces in which it is sent. */
  say?: string[];
  /** Waits before the piece with this number until the test releases `name`. */
  hold?: { before: number; name: string };
  /** Refuses the request with this status. */
  status?: number;
  /** Breaks the connection after the last piece. */
  breaks?: boolean;
}

/** The upstream, and what tests may ask of it. */
export class Upstream {
  private readonly server: Server;
  private readonly released = new Map<string, () => void>();
  private readonly reached = new Map<string, () => void>();
  /** How many requests for a reply came. */
  requests = 0;

  private constructor() {
    this.server = createServer((request, response) => void this.answer(request, response));
  }

  static async start(): Promise<Upstream> {
    const upstream = new Upstream();
    await new Promise<void>((resolve) => upstream.server.listen(0, "127.0.0.1", resolve));
    return upstream;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Lets the reply that is held under this name go on, now or when it gets there. */
  release(name: string): void {
    signal(this.released, name);
  }

  /** Resolves when a reply is held under this name. */
  held(name: string): Promise<void> {
    return occurrence(this.reached, name);
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += String(chunk);
    this.requests += 1;
    const { messages } = JSON.parse(body) as { messages: { role: string; content: string }[] };
    const message = messages.filter(({ role }) => role === "user").at(-1)?.content ?? "";
    const script = scriptOf(message);
    if (script.status) {
      response.writeHead(script.status, { "content-type": "application/json" }).end('{"error":{"message":"no"}}');
      return;
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.on("error", () => undefined);
    const send = (choice: object): void => {
      response.write(`data: ${JSON.stringify({ choices: [{ index: 0, ...choice }] })}\n\n`);
    };
    for (const [number, piece] of (script.say ?? [message]).entries()) {
      if (script.hold?.before === number) {
        signal(this.reached, script.hold.name);
        await Promise.race([
          occurrence(this.released, script.hold.name),
          new Promise<void>((resolve) => response.on("close", resolve)),
        ]);
      }
      send({ delta: { content: piece } });
    }
    if (script.breaks) {
      response.socket?.end();
      return;
    }
    send({ delta: {}, finish_reason: "stop" });
    response.end("data: [DONE]\n\n");
  }
}

function scriptOf(message: string): Script {
  try {
    const script: unknown = JSON.parse(message);
    return typeof script === "object" && script !== null ? script : {};
  } catch {
    return {};
  }
}

// An occurrence that may come before somebody waits for it, or after.
const done = (): void => undefined;

function signal(map: Map<string, () => void>, name: string): void {
  map.get(name)?.();
  map.set(name, done);
}

function occurrence(map: Map<string, () => void>, name: string): Promise<void> {
  if (map.get(name) === done) return Promise.resolve();
  return new Promise((resolve) => map.set(name, resolve));
}
