// What a transcript says below a message, besides its text.
import type { TurnEvent } from "../../src/client.js";
import type { Word } from "./words.ts";

type Done = Extract<TurnEvent, { type: "done" }>;

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

/** Returns what the user should know about how a turn ended, and about one that was not stored. */
export function notesOfDone({ finishReason, saved, unsaved }: Done): Word[] {
  return [...notesOfEnd(finishReason), ...(saved ? [] : notesOfUnsaved(unsaved))];
}

function notesOfUnsaved(unsaved: Done["unsaved"]): Word[] {
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
