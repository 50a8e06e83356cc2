// What a transcript says below a message, besides its text.
import type { Word } from "./words.ts";

/** Returns what the user should know about how a reply ended. */
export function notesOfEnd(finishReason: unknown): Word[] {
  switch (finishReason) {
    case undefined:
    case null:
    case "stop":
      return [];
    case "stopped":
      return ["endedStopped"];
    case "length":
      return ["endedLength"];
    case "content_filter":
      return ["endedFilter"];
    default:
      return ["endedError"];
  }
}

/** Returns what the user should know about a turn that was not stored. */
export function notesOfUnsaved(unsaved: "cleared" | "conflict" | "memory" | "empty" | undefined): Word[] {
  switch (unsaved) {
    case "cleared":
      return ["unsavedCleared"];
    case "conflict":
      return ["unsavedConflict"];
    case "empty":
      return [];
    default:
      return ["unsavedMemory"];
  }
}
