// What a tab keeps: drafts, and the turn that runs or has failed, so that a page that is reloaded in mid-reply goes on with
// it: the same request with the same key is the same turn, whether or not it had arrived.
import type { Greeting } from "./items.ts";

/** What was asked. */
export interface Request {
  kind: "send" | "regenerate" | "edit";
  /** Its idempotency key. It is also stored with the message, so that the page recognises it in the history. */
  key: string;
  message: string;
  /** Which message it takes the place of, unless it is a new one. */
  msgId?: string;
  /** The greeting that it answers, as it was shown. */
  greeting?: Greeting;
  /** What the user was called, if there was a name. */
  userName?: string;
  /** When it began, in milliseconds since 1970. */
  began: number;
  /** If it has failed: what the user is told of that, and whether it would fail again. */
  failed?: { text: string; isFinal: boolean };
}

/** After this time a tab that is opened again does not repeat a request by itself. */
export const FRESH_MS = 10 * 60_000;

export function readPending(character: string): Request | null {
  try {
    const text = sessionStorage.getItem(`pending:${character}`);
    return text ? (JSON.parse(text) as Request) : null;
  } catch {
    return null;
  }
}

export function writePending(character: string, request: Request): void {
  store(`pending:${character}`, JSON.stringify(request));
}

export function forgetPending(character: string): void {
  sessionStorage.removeItem(`pending:${character}`);
}

export function readDraft(character: string): string {
  return sessionStorage.getItem(`draft:${character}`) ?? "";
}

export function writeDraft(character: string, text: string): void {
  if (text) store(`draft:${character}`, text);
  else sessionStorage.removeItem(`draft:${character}`);
}

function store(name: string, value: string): void {
  try {
    sessionStorage.setItem(name, value);
  } catch {
    // Full or forbidden: a reload then forgets this, and nothing else suffers.
  }
}
