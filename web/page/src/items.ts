// What a transcript is made of, and how it takes in what the functions have stored. Pure functions.
import type { History, TurnEvent } from "../../src/client.js";
import { notesOfDone, notesOfEnd } from "./notes.ts";
import type { Request } from "./pending.ts";
import { Prose } from "./prose.ts";
import type { Word } from "./words.ts";

/** One message in the transcript. Immutable but for its text, which grows while a reply is written. */
export interface Item {
  /** Stays the same as long as the message is shown. */
  readonly key: string;
  /** The id under which it is stored; null if it is not, or not yet. */
  readonly id: string | null;
  readonly role: "user" | "assistant";
  readonly prose: Prose;
  /** Unix seconds; 0 if unknown. */
  readonly at: number;
  /** What the user should know about it. */
  readonly notes: readonly Word[];
  /** Whether it is still being written. */
  readonly live: boolean;
  /** The key of the request of this page that it belongs to, by which it is recognised when it is stored. */
  readonly requestKey?: string;
}

/** A message as the functions return it. */
export type Message = History["messages"][number];

let made = 0;

/** Returns an item that is not stored. */
export function local(role: Item["role"], text: string, more: Pick<Partial<Item>, "live" | "requestKey"> = {}): Item {
  made += 1;
  return {
    key: `local-${made}`,
    id: null,
    role,
    prose: new Prose(text),
    at: Math.floor(Date.now() / 1000),
    notes: [],
    live: false,
    ...more,
  };
}

/**
 * Returns the transcript with the newest page of stored messages in it, and whether older pages that were shown stay.
 *
 * A message that is shown already keeps its item, so that it is not drawn again. What was shown and is no longer stored
 * goes. What was never stored stays behind the message that it followed. What this page asked for, and shows without its
 * id because it did not learn that it was stored, gives way to what is stored.
 */
export function merged(
  shownItems: readonly Item[],
  page: readonly Message[],
  hasMore: boolean,
): { items: Item[]; keepsOlder: boolean } {
  const keys = new Set(page.map(keyOf));
  const items = shownItems.filter(({ id, live, requestKey }) => {
    return id !== null || live || requestKey === undefined || !keys.has(requestKey);
  });
  const shown = new Map(items.filter((item) => item.id !== null).map((item) => [item.id, item]));
  const greeting = items[0];
  const [first] = page;
  // A greeting is shown before it is stored, and nothing but the history names its id.
  const isGreeting = first?.role === "assistant" && greeting?.id === null && greeting.prose.text === first.content;
  const stored = page.flatMap((message, index) => {
    if (message.role === "system") return [];
    if (index === 0 && isGreeting) return [{ ...greeting, id: message.msg_id }];
    return [shown.get(message.msg_id) ?? itemOf(message, index)];
  });
  const overlap = stored[0] ? items.indexOf(stored[0]) : -1;
  const keepsOlder = hasMore && overlap > 0;
  const older = keepsOlder ? items.slice(0, overlap).filter((item) => item.id !== null) : [];
  const result = [...older, ...stored];

  let predecessor: Item | null = null;
  for (const item of items) {
    if (item.id !== null) {
      if (result.includes(item)) predecessor = item;
    } else if (!(isGreeting && item === greeting)) {
      const place: number = item.live || !predecessor ? -1 : result.indexOf(predecessor);
      if (place < 0) result.push(item);
      else result.splice(place + 1, 0, item);
      predecessor = item;
    }
  }
  return { items: result, keepsOlder };
}

/** Returns the items of an older page, before those that are shown. */
export function withOlder(items: readonly Item[], page: readonly Message[]): Item[] {
  const known = new Set(items.map((item) => item.id));
  const older = page.filter((message) => message.role !== "system" && !known.has(message.msg_id));
  return [...older.map(itemOf), ...items];
}

function itemOf(message: Message, index: number): Item {
  return {
    // Other writers of the stored form may have left the id out.
    key: message.msg_id || `unnamed-${message.timestamp}-${index}`,
    id: message.msg_id || null,
    role: message.role === "user" ? "user" : "assistant",
    prose: new Prose(message.content),
    at: message.timestamp,
    notes: message.role === "assistant" ? notesOfEnd(message.metadata?.["finish_reason"]) : [],
    live: false,
  };
}

/** Returns the items with a note below one of them, if it is not there yet. */
export function noted(items: readonly Item[], item: Item, note: Word): Item[] {
  return items.map((one) => {
    return one.key === item.key && !one.notes.includes(note) ? { ...one, notes: [...one.notes, note] } : one;
  });
}

/**
 * Returns the items with a turn that has ended: a message and its reply get their ids, and a reply without text goes.
 * `asked` is undefined if the page does not show the message.
 */
export function finished(
  items: readonly Item[],
  done: Extract<TurnEvent, { type: "done" }>,
  asked: Item | undefined,
  reply: Item,
): Item[] {
  // The history may have been read after the turn was stored, and before its last event came.
  const isThere = items.some((item) => item.id === done.msgId);
  const notes = notesOfDone(done);
  return items.flatMap((item): Item[] => {
    if (item.key === reply.key) {
      if (isThere || reply.prose.text === "") return [];
      return [{ ...item, id: done.saved ? done.msgId : null, live: false, notes: [...item.notes, ...notes] }];
    }
    if (item.key === asked?.key) return isThere ? [] : [{ ...item, id: done.saved ? done.userMsgId : null }];
    return [item];
  });
}

/** Returns the items with a reply that broke off: what came of it stays, and is marked. */
export function settled(items: readonly Item[], reply: Item): Item[] {
  return items.flatMap((item) => {
    if (item.key !== reply.key || !item.live) return [item];
    return item.prose.text ? [{ ...item, live: false, notes: [...item.notes, "endedError" as const] }] : [];
  });
}

/**
 * Returns the items without a message that was not stored, and without what was shown after it, but with what that had
 * taken the place of.
 */
export function withoutAttempt(items: readonly Item[], asked: Item, replaced: readonly Item[] = []): readonly Item[] {
  const index = items.findIndex((item) => item.key === asked.key);
  if (index < 0) return items;
  const rest = [...items.filter((item, at) => at < index || item.id !== null), ...replaced];
  // Without a message after it, a greeting that is not stored is the user's to choose again.
  return rest.some((item) => item.role === "user" || item.id !== null) ? rest : [];
}

/** Returns the items without a stored message, its turn, and all that follows. */
export function withoutFrom(items: readonly Item[], item: Item): readonly Item[] {
  let index = items.findIndex((one) => one.key === item.key);
  while (index > 0 && items[index]?.role !== "user") index -= 1;
  const rest = items.slice(0, Math.max(index, 0));
  // A greeting belongs to the first turn, and goes with it.
  return rest.some((one) => one.role === "user") ? rest : [];
}

/** A greeting of a character, and its number: its index in the list of the functions. */
export interface Greeting {
  readonly number: number;
  readonly text: string;
}

/** Returns the greetings that are not blank. The functions refuse the numbers of blank ones. */
export function greetingsOf(texts: readonly string[]): Greeting[] {
  return texts.map((text, number) => ({ number, text })).filter(({ text }) => text.trim() !== "");
}

/** Returns what stands before the message of a request: a greeting, or what comes before the message it replaces. */
export function contextOf(items: readonly Item[], request: Request): readonly Item[] {
  if (request.greeting && items.length === 0) return [local("assistant", request.greeting.text)];
  const place = request.msgId ? items.findIndex((item) => item.id === request.msgId) : -1;
  return place < 0 ? items : items.slice(0, place);
}

/** Returns the key of the request that a stored message came with, if this page sent it. */
export function keyOf(message: Message): unknown {
  return message.metadata?.["key"];
}
