// Why something failed, for the user.
import { ChatError } from "../../src/client.js";
import { say } from "./words.ts";

/** Returns why something failed, as a part of a sentence. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof ChatError))
    return say("reasonOther", { code: error instanceof Error ? error.name : "unknown" });
  switch (error.code) {
    case "unauthorized":
    case "token_unavailable":
      return say("reasonExpired");
    case "unreachable":
    case "unavailable":
    case "overloaded":
    case "connection_lost":
      return say("reasonUnreachable");
    case "memory_unavailable":
      return say("reasonMemory");
    case "too_many_requests":
      return say("reasonLimit", { seconds: error.retryAfterSeconds ?? 60 });
    case "upstream_unavailable":
    case "upstream_timeout":
    case "upstream_interrupted":
      return say("reasonModel");
    case "upstream_rejected":
      return say("reasonRejected");
    case "character_not_found":
      return say("reasonCharacter");
    case "message_not_found":
    case "turn_not_found":
      return say("reasonGone");
    case "turn_lost":
      return say("reasonLost");
    default:
      return say("reasonOther", { code: error.code });
  }
}

/** The pause before what failed for a passing reason is tried again by itself. */
export const RETRY_AFTER_MS = 4000;

/** Whether no answer came, or one that says to come back later. */
export function isPassing(error: unknown): boolean {
  return error instanceof ChatError && ["unreachable", "unavailable", "overloaded", "memory_unavailable"].includes(error.code);
}

/** Whether the functions answer that the memory cannot be read. */
export function isUnreadable(error: unknown): boolean {
  return error instanceof ChatError && error.code === "memory_unavailable";
}

/** Whether the functions refuse the token, or there is none. */
export function isLocked(error: unknown): boolean {
  return error instanceof ChatError && (error.code === "unauthorized" || error.code === "token_unavailable");
}

/** Whether a turn that failed is stored all the same, with what came of its reply. */
export function isStored(error: unknown): boolean {
  return error instanceof ChatError && error.saved === true;
}

/** Returns what an error says of a character that was asked for. Null if it may be there all the same. */
export function absenceOf(error: unknown): "missing" | "broken" | null {
  if (!(error instanceof ChatError)) return null;
  if (error.code === "character_not_found") return "missing";
  return error.code === "internal" ? "broken" : null;
}

/** Whether the functions refuse a request for what it is, so that it would be refused again. */
export function isFinal(error: unknown): boolean {
  if (!(error instanceof ChatError)) return false;
  const { code, status = 0 } = error;
  return status >= 400 && status < 500 && ![401, 408, 429].includes(status) && code !== "turn_not_found";
}
