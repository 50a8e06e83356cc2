/** A service that answers as a test says, for what the real one does only when it is broken. */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export type Answer = (request: IncomingMessage, response: ServerResponse) => void;

export interface Stub {
  url: string;
  /** The requests that came, as method, path and key. */
  requests: { method: string; url: string; key: string | undefined; token: string | undefined }[];
  /** How many connections were made. */
  connections(): number;
  stop(): Promise<void>;
}

/** Starts a service that gives one answer after the other, and the last one again and again. */
export async function startStub(...answers: Answer[]): Promise<Stub> {
  const requests: Stub["requests"] = [];
  const server = createServer((request, response) => {
    const answer = answers[Math.min(requests.length, answers.length - 1)];
    requests.push({
      method: request.method ?? "",
      url: request.url ?? "",
      key: request.headers["idempotency-key"]?.toString(),
      token: request.headers.authorization,
    });
    request.resume().on("end", () => answer?.(request, response));
  });
  let connections = 0;
  server.on("connection", () => (connections += 1));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    connections: () => connections,
    stop: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

export const TURN = "01936d2a-7c3e-7b51-9f04-5a1c8e2d6b90";

/** Answers with these frames, and ends the stream, or breaks it. */
export function stream(frames: string[], end: "end" | "break" = "end"): Answer {
  return (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
    response.write(frames.join(""), () => (end === "end" ? response.end() : response.destroy()));
  };
}

export function problem(status: number, code: string, headers: Record<string, string> = {}): Answer {
  return (_, response) => {
    response.writeHead(status, { "content-type": "application/problem+json", ...headers });
    response.end(JSON.stringify({ type: "about:blank", title: "No", status, detail: `because of ${code}`, code }));
  };
}

export const breaks: Answer = (request) => void request.socket.destroy();

export function frame(id: string, event: string, data: object): string {
  return `id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}

export function start(more: object = {}): string {
  return frame("0", "start", { turn_id: TURN, memory: "empty", history_messages: 0, resumable: true, ...more });
}

export function text(bytes: number, content: string): string {
  return frame(String(bytes), "message", { content, done: false });
}

export function done(more: object = {}): string {
  const usage = { prompt_tokens: 1, completion_tokens: 2 };
  const ids = { turn_id: TURN, msg_id: "reply", user_msg_id: "message" };
  return frame("done", "message", { content: "", done: true, ...ids, finish_reason: "stop", saved: true, usage, ...more });
}

export function failed(code: string, saved = false): string {
  return frame("done", "error", { error: "服务暂时不可用，请稍后重试", code, turn_id: TURN, saved });
}
