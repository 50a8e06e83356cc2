/** One request from its beginning to the last byte of its response: what ends it, and how it is read. */

import { aborted, ChatError, problemOf } from "./errors.js";

/** Where the service is, who asks, and with which `fetch`. */
export interface Service {
  readonly baseUrl: string;
  readonly token: string | (() => string | Promise<string>);
  readonly fetch: typeof fetch;
}

export interface Ask {
  readonly method: "GET" | "POST" | "DELETE";
  readonly path: string;
  readonly headers?: Record<string, string>;
  readonly body?: string;
}

/** How long after its last event a stream may end by itself. */
const END_MS = 800;

/**
 * A request and its response. Whatever the platform's `fetch` does with a signal, waiting for it ends at once when the
 * caller's signal is aborted, and when nothing has come for a time. Must be closed.
 */
export class Connection {
  private readonly controller = new AbortController();
  private failure: ChatError | undefined;
  private reject: ((failure: ChatError) => void) | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly onAbort = (): void => this.end(aborted());

  constructor(
    private readonly service: Service,
    private silenceMs: number,
    private readonly signal?: AbortSignal,
  ) {
    if (signal?.aborted) this.end(aborted());
    else signal?.addEventListener("abort", this.onAbort);
  }

  /** Ends the request. What waits for it fails; the turn at the service goes on. */
  close(): void {
    this.end(new ChatError("unreachable", "the connection was closed"));
  }

  /** Has the rest of the response awaited only for a moment: it is not needed, but it leaves the connection usable. */
  expectEnd(): void {
    this.silenceMs = END_MS;
  }

  /**
   * Sends a request, and returns its response if the service accepts it. A callback that returns tokens is asked once
   * more after a 401. Throws a ChatError; its code is `unreachable` if no response came.
   */
  async send(ask: Ask): Promise<Response> {
    for (let again = false; ; again = true) {
      const token = await this.token();
      if (this.failure) throw this.failure;
      let response: Response;
      try {
        response = await this.wait(
          this.service.fetch(this.service.baseUrl + ask.path, {
            method: ask.method,
            headers: { authorization: `Bearer ${token}`, ...ask.headers },
            signal: this.controller.signal,
            // The cache of browsers would let one of two tabs wait until the other has read the whole of the same turn.
            cache: "no-store",
            ...(ask.body === undefined ? {} : { body: ask.body }),
          }),
        );
      } catch (cause) {
        throw this.failure ?? new ChatError("unreachable", "the service cannot be reached", { cause });
      }
      if (response.ok) return response;
      if (response.status === 401 && typeof this.service.token === "function" && !again) {
        // The body is dropped, so that the connection is free. What comes of that does not matter.
        void response.body?.cancel().catch(() => undefined);
        continue;
      }
      throw await this.wait(problemOf(response));
    }
  }

  /** Yields the text of a response as it comes. Throws a ChatError with the code `unreachable` if it is cut. */
  async *read(response: Response): AsyncGenerator<string, void, undefined> {
    if (!response.body) {
      throw new ChatError(
        "no_stream",
        "this fetch returns no body that can be read as it comes; in React Native, pass the fetch of `expo/fetch`",
      );
    }
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    try {
      for (;;) {
        const { done, value } = await this.wait(reader.read());
        if (done) return;
        if (value) yield decoder.decode(value, { stream: true });
      }
    } catch (cause) {
      throw this.failure ?? new ChatError("unreachable", "the connection was lost", { cause });
    } finally {
      void reader.cancel().catch(() => undefined);
    }
  }

  /**
   * Returns the whole body of a response, which may take as long as something comes. Throws a ChatError; its code is
   * `unreachable` if the body is cut, as before the response: another attempt may get it, and a caller who gets no
   * answer does not care how near it came.
   */
  async json<T>(response: Response): Promise<T> {
    let text = "";
    if (response.body) {
      for await (const piece of this.read(response)) text += piece;
    } else {
      // Requests without a stream work with a `fetch` that has none.
      try {
        text = await this.wait(response.text());
      } catch (cause) {
        throw this.failure ?? new ChatError("unreachable", "the connection was lost", { cause });
      }
    }
    return parse<T>(text, response.status);
  }

  private async token(): Promise<string> {
    const { token } = this.service;
    let value: string;
    try {
      value = typeof token === "function" ? await this.wait(Promise.resolve(token())) : token;
    } catch (cause) {
      throw this.failure ?? new ChatError("token_unavailable", "the callback for the token failed", { cause });
    }
    // Not one that `fetch` would refuse with an error that looks like that of a lost connection.
    if (typeof value !== "string" || !/^[!-~]+$/.test(value)) {
      throw new ChatError("token_unavailable", "the token is empty, or has characters that no header can hold");
    }
    return value;
  }

  /** Waits for a step of the request, and no longer than until the connection ends or has been silent for too long. */
  private wait<T>(step: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.reject = reject;
      step.then(resolve, reject);
      if (this.failure) reject(this.failure);
      // A caller who takes long over an event is no silence of the service: time counts only while it is waited for.
      else this.timer = setTimeout(() => this.end(tooSilent()), this.silenceMs);
    }).finally(() => this.stopTimer());
  }

  private stopTimer(): void {
    if (this.timer !== undefined) clearTimeout(this.timer);
    this.timer = undefined;
  }

  private end(failure: ChatError): void {
    if (this.failure) return;
    this.failure = failure;
    this.stopTimer();
    this.signal?.removeEventListener("abort", this.onAbort);
    this.reject?.(failure);
    this.controller.abort();
  }
}

function tooSilent(): ChatError {
  return new ChatError("unreachable", "the service has been silent for too long");
}

/** Throws a ChatError with the code `bad_response` unless the response is of this media type. */
export function requireType(response: Response, type: string): void {
  const given = response.headers.get("content-type") ?? "";
  if (given.toLowerCase().startsWith(type)) return;
  const message = `the response is not of the type ${type}, but of ${given || "none"}`;
  throw new ChatError("bad_response", message, { status: response.status });
}

/**
 * Returns the object that a JSON text of a response stands for. Throws a ChatError with the code `bad_response`, and the
 * status of that response, if it is none: every answer of the service is an object, and so is each of its events.
 */
export function parse<T>(text: string, status: number): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ChatError("bad_response", "the response is not valid JSON", { status, cause });
  }
  if (typeof value !== "object" || value === null) {
    throw new ChatError("bad_response", "the response is not a JSON object", { status });
  }
  return value as T;
}

/** Returns a path of the API with a query. Parameters without a value are left out. */
export function path(name: string, query: Record<string, string | number | undefined> = {}): string {
  const pairs = Object.entries(query)
    .filter((pair): pair is [string, string | number] => pair[1] !== undefined)
    .map(([key, value]) => `${key}=${encode(String(value))}`);
  return `/api/v1/chat/${name}${pairs.length > 0 ? `?${pairs.join("&")}` : ""}`;
}

/** Half of a surrogate pair, which has no UTF-8, becomes U+FFFD, which the service refuses by name. */
function encode(text: string): string {
  return encodeURIComponent(text.replace(/[\uD800-\uDFFF]/gu, "\uFFFD"));
}
