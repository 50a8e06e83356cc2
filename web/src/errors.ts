/** What went wrong, as one kind of error with a `code` for programs. */

import type { components } from "./api.js";

/** What a `ChatError` knows besides its code and its message. */
export interface ErrorDetails {
  status?: number | undefined;
  detail?: string | undefined;
  retryAfterSeconds?: number | undefined;
  saved?: boolean | undefined;
  turnId?: string | undefined;
  cause?: unknown;
}

/**
 * A request or a turn that failed. The README of this package lists the codes: those of the service, and those of this
 * client, which are `aborted`, `unreachable`, `connection_lost`, `token_unavailable`, `no_stream` and `bad_response`.
 *
 * The name of an error with the code `aborted` is `AbortError`, as with other functions that take a signal.
 */
export class ChatError extends Error {
  /** The reason, for programs. */
  code: string;
  /** The HTTP status of the response that refused the request, or that is not one of this service. */
  status?: number;
  /** The reason in words, from the service. It may be in Chinese, and it is not meant for users. */
  detail?: string;
  /** After how many seconds another attempt makes sense, if the service says so. */
  retryAfterSeconds?: number;
  /**
   * Whether the message is stored with the part of the reply that came, if the turn is known to have ended: after
   * `false`, sending the message again is safe. Unset, it is not known.
   */
  saved?: boolean;
  /** The turn that failed, if one had begun. */
  turnId?: string;

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message);
    this.name = code === "aborted" ? "AbortError" : "ChatError";
    this.code = code;
    for (const [name, value] of Object.entries(details)) {
      if (value !== undefined) (this as Record<string, unknown>)[name] = value;
    }
  }
}

/** The codes of responses that the gateway, or a proxy, sends instead of the service. */
const CODE_OF_STATUS: Record<number, string> = {
  401: "unauthorized",
  403: "forbidden",
  404: "not_found",
  413: "payload_too_large",
  429: "too_many_requests",
  502: "unavailable",
  503: "unavailable",
  504: "unavailable",
};

/** Returns the error that a response with an error status is, whether it is a problem document or not. */
export async function problemOf(response: Response): Promise<ChatError> {
  let problem: Partial<components["schemas"]["Problem"]> = {};
  try {
    const parsed: unknown = JSON.parse(await response.text());
    if (typeof parsed === "object" && parsed !== null) problem = parsed;
  } catch {
    // Not a problem document, or not all of one. The status is enough.
  }
  const status = response.status;
  const code = typeof problem.code === "string" ? problem.code : (CODE_OF_STATUS[status] ?? "bad_response");
  const detail = typeof problem.detail === "string" ? problem.detail : undefined;
  const seconds = Number(response.headers.get("retry-after") ?? NaN);
  return new ChatError(code, `the service refused the request: ${detail ?? code} (HTTP ${status})`, {
    status,
    detail,
    retryAfterSeconds: Number.isFinite(seconds) && seconds >= 0 ? seconds : undefined,
  });
}

/** Returns the error for everything that ends because the caller's signal was aborted. */
export function aborted(): ChatError {
  return new ChatError("aborted", "the caller's signal was aborted");
}
