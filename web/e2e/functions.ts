// The real functions behind a stand-in for the Lambda Runtime API and for API Gateway: it speaks CORS as the template
// has the gateway do, and it can lose the network.
import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { resolve } from "node:path";
import { Process, until } from "../test/setup/process.ts";

const ROUTES: Record<string, string> = {
  "GET /api/v1/chat/stream": "chat-stream",
  "POST /api/v1/chat/stream": "chat-stream",
  "DELETE /api/v1/chat/stream": "stop-stream",
  "GET /api/v1/chat/history": "read-history",
  "DELETE /api/v1/chat/history": "clear-history",
  "GET /api/v1/chat/sessions": "session-meta",
  "GET /api/v1/chat/character": "read-character",
  "GET /api/v1/chat/data": "user-data",
  "DELETE /api/v1/chat/data": "user-data",
};

const TARGET = process.env["CARGO_TARGET_DIR"] ?? resolve(import.meta.dirname, "../../target");
const ALLOWED_HEADERS = "authorization,content-type,idempotency-key,last-event-id";
const AT_ONCE = 16;

/** One function: its process, and the Runtime API that it asks. */
class Function {
  readonly #server: Server;
  readonly #polls: ServerResponse[] = [];
  readonly #queue: { id: string; event: string }[] = [];
  readonly #answers = new Map<string, ServerResponse>();
  #process: Process | null = null;

  constructor(
    readonly name: string,
    private readonly env: Record<string, string>,
  ) {
    this.#server = createServer((request, response) => this.#serve(request, response));
  }

  async start(): Promise<void> {
    if (!this.#server.listening) await new Promise<void>((done) => this.#server.listen(0, "127.0.0.1", done));
    const { port } = this.#server.address() as AddressInfo;
    this.#process = new Process(resolve(TARGET, "debug", this.name), [], {
      ...this.env,
      AWS_LAMBDA_RUNTIME_API: `127.0.0.1:${port}`,
      AWS_LAMBDA_FUNCTION_NAME: this.name,
      AWS_LAMBDA_FUNCTION_VERSION: "1",
      AWS_LAMBDA_FUNCTION_MEMORY_SIZE: "256",
      AWS_LAMBDA_MAX_CONCURRENCY: String(AT_ONCE),
      AWS_LAMBDA_LOG_GROUP_NAME: "group",
      AWS_LAMBDA_LOG_STREAM_NAME: "stream",
    });
    await this.#process.upTo(until(`${this.name} asks for events`, () => this.#polls.length > 0));
  }

  get isIdle(): boolean {
    return this.#answers.size === 0;
  }

  /** Ends the process as a crash does: what it was answering is cut. */
  async kill(): Promise<void> {
    await this.#process?.kill();
    this.#process = null;
    this.#polls.length = 0;
    for (const answer of this.#answers.values()) answer.destroy();
    this.#answers.clear();
  }

  async stop(): Promise<void> {
    await this.kill();
    this.#server.closeAllConnections();
    this.#server.close();
  }

  invoke(event: object, answer: ServerResponse): void {
    const id = randomUUID();
    this.#answers.set(id, answer);
    this.#queue.push({ id, event: JSON.stringify(event) });
    this.#handOver();
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    const [, id, what] = /\/invocation\/([^/]+)\/?(\w*)$/.exec(request.url ?? "") ?? [];
    if (id === "next") {
      response.on("close", () => {
        const index = this.#polls.indexOf(response);
        if (index >= 0) this.#polls.splice(index, 1);
      });
      this.#polls.push(response);
      this.#handOver();
    } else if (id && what === "response") {
      void this.#answer(id, request, response);
    } else {
      if (id) this.#answers.get(id)?.writeHead(500).end('{"message":"Internal Server Error"}');
      request.resume();
      response.writeHead(202).end("{}");
    }
  }

  #handOver(): void {
    while (this.#polls.length > 0 && this.#queue.length > 0) {
      const next = this.#queue.shift();
      this.#polls
        .shift()
        ?.writeHead(200, {
          "content-type": "application/json",
          "lambda-runtime-aws-request-id": next?.id ?? "",
          "lambda-runtime-deadline-ms": String(Date.now() + 300_000),
          "lambda-runtime-invoked-function-arn": `arn:aws:lambda:eu-west-1:123456789012:function:${this.name}`,
        })
        .end(next?.event);
    }
  }

  async #answer(id: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const answer = this.#answers.get(id);
    const isStream = request.headers["lambda-runtime-function-response-mode"] === "streaming";
    let head = Buffer.alloc(0);
    let hasHead = false;
    try {
      for await (const chunk of request) {
        if (hasHead) {
          answer?.write(chunk);
          continue;
        }
        head = Buffer.concat([head, chunk]);
        const end = isStream ? head.indexOf(Buffer.alloc(8)) : -1;
        if (end < 0) continue;
        hasHead = true;
        const { statusCode, headers } = JSON.parse(head.subarray(0, end).toString());
        answer?.writeHead(statusCode, headers);
        answer?.flushHeaders();
        if (head.length > end + 8) answer?.write(head.subarray(end + 8));
      }
      if (!hasHead) {
        const whole = JSON.parse(head.toString());
        const lists = Object.entries(whole.multiValueHeaders ?? {}).map(([name, values]) => [name, values]);
        answer?.writeHead(whole.statusCode, { ...whole.headers, ...Object.fromEntries(lists) });
        answer?.write(Buffer.from(whole.body ?? "", whole.isBase64Encoded ? "base64" : "utf8"));
      }
      answer?.end();
      response.writeHead(202).end("{}");
    } catch {
      // The process died while it answered.
      answer?.destroy();
    }
    this.#answers.delete(id);
  }
}

/** All functions, at one address. */
export class Functions {
  readonly #functions = new Map<string, Function>();
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;
  #isCut = false;
  /** How many connections came while the network was lost. */
  refused = 0;
  /** What was asked, as `POST /api/v1/chat/stream`, but for preflights. */
  readonly asked: string[] = [];

  private constructor(private readonly allowed: string) {
    this.#server = createServer((request, response) => void this.#serve(request, response));
    this.#server.on("connection", (socket) => {
      if (this.#isCut) {
        this.refused += 1;
        socket.destroy();
      }
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
  }

  /** Starts them. `allowed` is the one origin whose pages may read the answers. */
  static async start(env: Record<string, string>, allowed: string): Promise<Functions> {
    const functions = new Functions(allowed);
    for (const name of Object.values(ROUTES)) {
      const one = new Function(name, { LOG_LEVEL: "warn", METRICS: "off", CORS_ALLOWED_ORIGINS: allowed, ...env });
      functions.#functions.set(name, one);
    }
    await Promise.all([...functions.#functions.values()].map((one) => one.start()));
    await new Promise<void>((done) => functions.#server.listen(0, "127.0.0.1", done));
    return functions;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Loses the network: connections break, and no new one is made. */
  cut(): void {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  restore(): void {
    this.#isCut = false;
  }

  /** Whether a function has answered all that it was asked, also what nobody waits for any more. */
  isIdle(name: string): boolean {
    return this.#functions.get(name)?.isIdle ?? true;
  }

  async kill(name: string): Promise<void> {
    await this.#functions.get(name)?.kill();
  }

  async startAgain(name: string): Promise<void> {
    await this.#functions.get(name)?.start();
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    for (const one of this.#functions.values()) await one.stop();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", "http://gateway");
    const { origin } = request.headers;
    if (request.method === "OPTIONS") {
      const allows = origin === this.allowed;
      response.writeHead(204, allows ? this.#preflight() : {}).end();
      return;
    }
    const route = `${request.method} ${url.pathname}`;
    this.asked.push(route);
    const target = this.#functions.get(ROUTES[route] ?? "");
    if (!target) {
      response.writeHead(404, { "content-type": "application/json" }).end('{"message":"Not Found"}');
      return;
    }
    let body = "";
    for await (const chunk of request) body += chunk;
    target.invoke(eventOf(request, url, body), response);
  }

  #preflight(): Record<string, string> {
    return {
      "access-control-allow-origin": this.allowed,
      "access-control-allow-methods": "GET,POST,PATCH,DELETE",
      "access-control-allow-headers": ALLOWED_HEADERS,
      "access-control-max-age": "600",
    };
  }
}

/** Returns the event of an HTTP API. */
function eventOf(request: IncomingMessage, url: URL, body: string): object {
  const headers = Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, String(value)]));
  const routeKey = `${request.method} ${url.pathname}`;
  return {
    version: "2.0",
    routeKey,
    rawPath: url.pathname,
    rawQueryString: url.search.slice(1),
    queryStringParameters: Object.fromEntries(url.searchParams),
    headers,
    requestContext: {
      accountId: "123456789012",
      apiId: "api",
      domainName: "api.example.com",
      domainPrefix: "api",
      http: {
        method: request.method,
        path: url.pathname,
        protocol: "HTTP/1.1",
        sourceIp: "127.0.0.1",
        userAgent: "test",
      },
      requestId: randomUUID(),
      routeKey,
      stage: "$default",
      time: "24/Nov/2024:06:53:20 +0000",
      timeEpoch: Date.now(),
    },
    ...(body ? { body } : {}),
    isBase64Encoded: false,
  };
}
