// Which turn a conversation shows, when things happen in an order that no browser test can arrange.
import { type Signal, signal } from "@preact/signals";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type Character, ChatError, type CompanionChat, type History, type TurnEvent } from "../../src/client.js";
import { Conversation } from "../src/conversation.ts";
import { readPending, writePending } from "../src/pending.ts";
import { locked } from "../src/token.ts";

// What the page has of its browser, at the time when its modules are loaded.
vi.hoisted(() => {
  const stored = new Map<string, string>();
  vi.stubGlobal("navigator", { languages: ["en"] });
  vi.stubGlobal("sessionStorage", {
    getItem: (name: string) => stored.get(name) ?? null,
    setItem: (name: string, value: string) => void stored.set(name, value),
    removeItem: (name: string) => void stored.delete(name),
    clear: () => stored.clear(),
  });
});

/** The events of a turn, as a test sends them. Like a bad network, it does not hear that it is aborted. */
class Stream implements AsyncIterable<TurnEvent> {
  isClosed = false;
  readonly #queue: (TurnEvent | Error)[] = [];
  #wake: (() => void) | undefined;

  push(...events: (TurnEvent | Error)[]): void {
    this.#queue.push(...events);
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<TurnEvent> {
    try {
      for (;;) {
        const next = this.#queue.shift();
        if (next instanceof Error) throw next;
        if (next) yield next;
        else await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      this.isClosed = true;
    }
  }
}

/** A request that the test answers. */
interface Held<T> {
  resolve(value: T): void;
  reject(error: Error): void;
}

/** The functions, as far as a conversation asks them. */
class Service {
  readonly sent: Stream[] = [];
  /** The keys of what was sent. */
  readonly keys: string[] = [];
  readonly resumed: Stream[] = [];
  readonly histories: Held<History>[] = [];
  readonly stops: Held<boolean>[] = [];

  get client(): CompanionChat {
    const open = (streams: Stream[]): Stream => {
      const stream = new Stream();
      streams.push(stream);
      return stream;
    };
    const hold = <T>(all: Held<T>[]): Promise<T> => {
      return new Promise((resolve, reject) => void all.push({ resolve, reject }));
    };
    const asked: Partial<CompanionChat> = {
      send: (_character, _message, { key = "" } = {}) => {
        this.keys.push(key);
        return open(this.sent);
      },
      edit: () => open(this.sent),
      resume: () => open(this.resumed),
      history: () => hold(this.histories),
      stop: () => hold(this.stops),
      clear: async () => undefined,
      rewind: async () => undefined,
    };
    return asked as CompanionChat;
  }
}

const start = (turnId: string): TurnEvent => {
  return { type: "start", turnId, memory: "empty", historyMessages: 0, resumable: true };
};
const text = (piece: string): TurnEvent => ({ type: "text", text: piece });
const done = (turn: string): TurnEvent => ({
  type: "done",
  turnId: turn,
  msgId: `a-${turn}`,
  userMsgId: `u-${turn}`,
  finishReason: "stop",
  saved: true,
  usage: { promptTokens: 1, completionTokens: 1 },
});
type Message = History["messages"][number];
const message = (id: string, key?: string): Message => {
  const role = id.startsWith("u") ? "user" : "assistant";
  return { msg_id: id, role, content: id, timestamp: 1, token_count: 1, metadata: key ? { key } : null };
};
const page = (ids: string, more: Partial<History> = {}): History => {
  return { character_id: "luna", messages: ids.split(" ").map((id) => message(id)), has_more: false, ...more };
};
const EMPTY: History = { character_id: "luna", messages: [], has_more: false };
const unreachable = (): ChatError => new ChatError("unreachable", "no answer");

let service: Service;
let character: Signal<Character | null>;
let conversation: Conversation;

const texts = (): string[] => conversation.stored.items.value.map((item) => item.prose.text);
/** Lets everything happen that waits for nothing. */
const settle = async (): Promise<void> => void (await vi.advanceTimersByTimeAsync(0));
const say = (message: string): void => {
  conversation.write(message);
  conversation.send();
};

/** Returns the conversation as a page has it that was just loaded in this tab. */
function conversationOfTab(): Conversation {
  return new Conversation("luna", {
    client: service.client,
    character,
    absence: signal(null),
    userName: signal(""),
    learn: async () => undefined,
    tell: () => undefined,
    announce: () => undefined,
    changed: () => undefined,
  });
}

beforeEach(() => {
  vi.useFakeTimers();
  sessionStorage.clear();
  service = new Service();
  character = signal(null);
  conversation = conversationOfTab();
});
afterEach(() => void vi.useRealTimers());

/** Opens the conversation, of which this is stored, and in which nothing runs. */
async function opened(stored = EMPTY): Promise<void> {
  void conversation.refresh();
  service.histories.shift()?.resolve(stored);
  await settle();
}

test("while its own turn runs, the page looks for no other, whatever it reads again", async () => {
  void conversation.refresh();
  service.histories.shift()?.reject(unreachable());
  await settle();
  expect(conversation.stored.state.value.kind).toBe("unreachable");
  say("Hello.");
  service.sent[0]?.push(start("1"), text("Hi"));
  await vi.advanceTimersByTimeAsync(4000);
  expect(service.histories, "it reads again what it could not read").toHaveLength(1);
  conversation.join("1", { kind: "send", key: "key", message: "Hello.", began: 0 });
  void conversation.refresh();
  await settle();
  expect(service.resumed).toHaveLength(1);
});

test("a turn that is found after the page has begun its own is not shown, and its stream is closed", async () => {
  await opened();
  const [search] = service.resumed;
  say("Hello.");
  service.sent[0]?.push(start("2"), text("Hi"));
  await settle();
  search?.push(start("1"), text("from an earlier turn"));
  await settle();
  expect(texts()).toEqual(["Hello.", "Hi"]);
  expect(conversation.following.turn.value?.id).toBe("2");
  expect(search?.isClosed).toBe(true);
});

test("a turn that is found after the page's own has ended is not shown", async () => {
  await opened();
  const [search] = service.resumed;
  say("Hello.");
  service.sent[0]?.push(start("1"), text("Hi"), done("1"));
  await settle();
  search?.push(start("1"), text("Hi"));
  await settle();
  expect(texts()).toEqual(["Hello.", "Hi"]);
  expect(search?.isClosed).toBe(true);
});

test("a stop that fails late changes no later turn", async () => {
  await opened();
  say("One.");
  service.sent[0]?.push(start("1"), text("1"));
  await settle();
  void conversation.following.stop();
  service.sent[0]?.push(done("1"));
  await settle();
  say("Two.");
  service.sent[1]?.push(start("2"));
  await settle();
  void conversation.following.stop();
  service.stops[0]?.reject(unreachable());
  await settle();
  expect(conversation.following.turn.value).toMatchObject({ id: "2", stopping: true });
});

test("a history that was asked for before an edit does not bring back what the edit replaces", async () => {
  const before = page("u1 a1");
  await opened(before);
  void conversation.refresh();
  const [first] = conversation.stored.items.value;
  if (first) conversation.edit(first, "Another.");
  service.sent[0]?.push(start("2"), text("Hi"));
  await settle();
  service.histories.shift()?.resolve(before);
  await settle();
  expect(texts()).toEqual(["Another.", "Hi"]);
});

test("a conversation that is asked for twice at once is read once", async () => {
  void conversation.refresh();
  void conversation.refresh();
  await settle();
  expect(service.histories).toHaveLength(1);
});

test("a turn that has failed leaves a later one its key, by which a reload goes on with it", async () => {
  await opened();
  say("One.");
  service.sent[0]?.push(start("1"), text("1"), new ChatError("upstream_interrupted", "cut", { saved: true }));
  await settle();
  expect(service.histories, "its ids are read").toHaveLength(1);
  say("Two.");
  service.histories.shift()?.resolve(EMPTY);
  await settle();
  expect(readPending("luna")?.message).toBe("Two.");

  service.sent[1]?.push(start("2"), text("2"), done("2"));
  await settle();
  const [key] = service.keys;
  const messages = [message("u1", key), message("a1"), message("u-2"), message("a-2")];
  service.histories.shift()?.resolve({ ...EMPTY, messages });
  await settle();
  void conversation.refresh();
  service.histories.shift()?.resolve({ ...EMPTY, messages });
  await settle();
  expect(texts(), "it is there once, and where it was said").toEqual(["u1", "a1", "Two.", "2"]);
});

test("a turn that is stored although its connection was lost is shown once", async () => {
  await opened();
  say("One.");
  service.sent[0]?.push(start("1"), text("1"), new ChatError("connection_lost", "cut"));
  await settle();
  expect(texts()).toEqual(["One.", "1"]);
  void conversation.refresh();
  service.histories.shift()?.resolve({ ...EMPTY, messages: [message("u1", service.keys[0]), message("a1")] });
  await settle();
  expect(texts()).toEqual(["u1", "a1"]);
});

test("a history that was asked for before a turn does not remove it", async () => {
  await opened();
  void conversation.refresh();
  say("Hello.");
  service.sent[0]?.push(start("1"), text("Hi"), done("1"));
  await settle();
  service.histories.shift()?.resolve(EMPTY);
  await settle();
  expect(texts()).toEqual(["Hello.", "Hi"]);
  expect(service.histories, "it is asked for again").toHaveLength(1);
});

test("a conversation that is first read while a turn runs keeps it", async () => {
  void conversation.refresh();
  say("Hello.");
  service.sent[0]?.push(start("1"), text("Hi"), done("1"));
  await settle();
  say("More.");
  service.histories.shift()?.resolve(EMPTY);
  await settle();
  service.histories.shift()?.resolve(page("u-1 a-1"));
  await settle();
  expect(texts()).toEqual(["Hello.", "Hi", "More.", ""]);
  expect(conversation.stored.state.value.kind).toBe("ready");
});

test("older messages that were asked for before a clear do not come back", async () => {
  await opened(page("u2 a2", { has_more: true }));
  void conversation.stored.older();
  await conversation.clear();
  service.histories.shift()?.resolve(page("u1 a1"));
  await settle();
  expect(texts()).toEqual([]);
});

test("an edit that fails takes nothing back but itself", async () => {
  await opened(page("u2 a2 u3 a3", { has_more: true }));
  const [, , third] = conversation.stored.items.value;
  if (third) conversation.edit(third, "Another.");
  service.sent[0]?.push(start("4"), text("Hi"));
  void conversation.stored.older();
  service.histories.shift()?.resolve(page("u1 a1"));
  await settle();
  expect(texts()).toEqual(["u1", "a1", "u2", "a2", "Another.", "Hi"]);
  service.sent[0]?.push(new ChatError("internal", "a defect", { saved: false }));
  await settle();
  expect(texts()).toEqual(["u1", "a1", "u2", "a2", "u3", "a3"]);
});

test("an edit that the model answers with nothing leaves what was there", async () => {
  await opened(page("u1 a1"));
  const [first] = conversation.stored.items.value;
  if (first) conversation.edit(first, "Another.");
  service.sent[0]?.push(start("2"), { ...done("2"), saved: false, unsaved: "empty" } as TurnEvent);
  await settle();
  expect(texts()).toEqual(["u1", "a1"]);
});

test("to delete the first message that is shown does not bring the greeting while there are older ones", async () => {
  character.value = { greetings: ["Welcome."] } as Character;
  await opened(page("u2 a2", { has_more: true }));
  const [first] = conversation.stored.items.value;
  if (first) void conversation.deleteFrom(first);
  await settle();
  expect(texts()).toEqual([]);
  expect(conversation.greeting.value).toBeNull();
  service.histories.shift()?.resolve(EMPTY);
  await settle();
  expect(conversation.greeting.value?.text).toBe("Welcome.");
});

test("a message that was never sent comes before a draft, and not in its place", async () => {
  writePending("luna", { kind: "send", key: "key", message: "Old.", began: 0 });
  conversation.write("New");
  await opened();
  expect(conversation.draft.value).toBe("Old.\n\nNew");
});

const refused = (): ChatError => new ChatError("upstream_unavailable", "no model", { saved: false });

test.each([
  ["another tab has begun a turn", () => conversation.join("2", { kind: "send", key: "other", message: "Theirs.", began: 0 })],
  ["something was changed", () => void conversation.refresh()],
])("if %s while a turn runs here, that is shown after it", async (_, happen) => {
  await opened();
  say("Mine.");
  service.sent[0]?.push(start("1"), text("1"));
  await settle();
  happen();
  await settle();
  expect(service.histories, "not while it runs").toHaveLength(0);
  service.sent[0]?.push(done("1"));
  await settle();
  expect(service.resumed, "it may run yet").toHaveLength(2);
  service.histories.shift()?.resolve(page("u-2 a-2 u-1 a-1"));
  await settle();
  expect(texts()).toEqual(["u-2", "a-2", "Mine.", "1"]);
});

test("a message that is stored after all is not given back", async () => {
  await opened();
  say("One.");
  service.sent[0]?.push(new ChatError("connection_lost", "cut"));
  await settle();
  void conversation.refresh();
  service.histories.shift()?.resolve({ ...EMPTY, messages: [message("u1", service.keys[0]), message("a1")] });
  await settle();
  conversation.failure.value?.dismiss();
  expect(texts()).toEqual(["u1", "a1"]);
  expect(conversation.draft.value).toBe("");
});

test("a message that was not sent says so when another is sent", async () => {
  await opened();
  say("One.");
  service.sent[0]?.push(refused());
  await settle();
  say("Two.");
  service.sent[1]?.push(start("2"), text("2"), done("2"));
  await settle();
  expect(texts()).toEqual(["One.", "Two.", "2"]);
  expect(conversation.stored.items.value.map((item) => item.notes)).toEqual([["unsent"], [], []]);
});

test("a message that was not sent is offered again after a reload, until it is dismissed", async () => {
  await opened();
  say("One.");
  service.sent[0]?.push(refused());
  await settle();
  const failure = conversation.failure.value?.text;
  for (const _ of [1, 2]) {
    conversation = conversationOfTab();
    await opened();
    expect(texts()).toEqual(["One."]);
    expect(conversation.failure.value?.text).toBe(failure);
  }
  conversation.write("Two.");
  conversation.failure.value?.dismiss();
  expect(texts()).toEqual([]);
  expect(conversation.draft.value, "nothing is lost").toBe("One.\n\nTwo.");
  conversation = conversationOfTab();
  await opened();
  expect(texts()).toEqual([]);
  expect(conversation.failure.value).toBeNull();
});

test("a message that failed before a reload is sent by trying again", async () => {
  await opened();
  say("One.");
  service.sent[0]?.push(refused());
  await settle();
  conversation = conversationOfTab();
  await opened();
  conversation.failure.value?.again?.();
  service.sent[1]?.push(start("1"), text("1"), done("1"));
  await settle();
  expect(texts()).toEqual(["One.", "1"]);
  expect(service.keys[1], "the turn of the first key has failed").not.toBe(service.keys[0]);
  expect(readPending("luna")).toBeNull();
});

test("an edit that failed is offered again after a reload, and its text is not lost", async () => {
  await opened(page("u1 a1"));
  const [first] = conversation.stored.items.value;
  if (first) conversation.edit(first, "Another.");
  service.sent[0]?.push(refused());
  await settle();
  service.histories.length = 0;
  conversation = conversationOfTab();
  await opened(page("u1 a1"));
  expect(texts()).toEqual(["u1", "a1"]);
  conversation.failure.value?.dismiss();
  expect(conversation.draft.value).toBe("Another.");
});

test("what is refused for what it is cannot be tried again", async () => {
  await opened(page("u1 a1"));
  const [first] = conversation.stored.items.value;
  if (first) conversation.edit(first, "Another.");
  service.sent[0]?.push(new ChatError("message_not_found", "gone", { status: 404 }));
  await settle();
  expect(conversation.failure.value?.again).toBeNull();
  conversation.failure.value?.dismiss();
  say("Hello.");
  service.sent[1]?.push(new ChatError("too_many_requests", "wait", { status: 429 }));
  await settle();
  expect(conversation.failure.value?.again).not.toBeNull();
});

test("after the first turn its greeting is read, and no other turn is looked for", async () => {
  character.value = { greetings: ["Welcome."] } as Character;
  await opened();
  say("Hello.");
  service.sent[0]?.push(start("1"), text("Hi"), done("1"));
  await settle();
  expect(service.histories).toHaveLength(1);
  expect(service.resumed, "but when the conversation was opened").toHaveLength(1);
});

test("a refusal of a token that another has replaced by now is no reason to wait for one more", async () => {
  await opened();
  say("Hello.");
  service.sent[0]?.push(new ChatError("unauthorized", "it has expired"));
  await settle();
  service.sent[1]?.push(start("1"), text("Hi"), done("1"));
  await settle();
  expect(texts()).toEqual(["Hello.", "Hi"]);
});

test("while the token is refused, a turn waits for another", async () => {
  await opened();
  locked.value = "expired";
  try {
    say("Hello.");
    service.sent[0]?.push(new ChatError("unauthorized", "it has expired"));
    await settle();
    expect(service.sent).toHaveLength(1);
    expect(conversation.following.turn.value?.connection).toBe("locked");
  } finally {
    locked.value = null;
  }
});

test("a turn of another device that a refused token has cut is shown once by the next", async () => {
  await opened();
  service.resumed[0]?.push(start("1"), text("Hi"), new ChatError("unauthorized", "it has expired"));
  await settle();
  expect(texts()).toEqual([]);
  expect(service.histories, "nothing is asked for until then").toHaveLength(0);
  void conversation.refresh();
  service.resumed[1]?.push(start("1"), text("Hi"), text(", you"));
  await settle();
  expect(texts()).toEqual(["Hi, you"]);
});

test("a turn of another tab that fails leaves what is stored", async () => {
  await opened(page("u1 a1"));
  conversation.join("2", { kind: "edit", key: "key", message: "Another.", msgId: "u1", began: 0 });
  service.resumed[1]?.push(start("2"), text("Hi"));
  await settle();
  expect(texts()).toEqual(["Another.", "Hi"]);
  service.resumed[1]?.push(new ChatError("upstream_interrupted", "cut", { saved: false }));
  await settle();
  service.histories.shift()?.reject(unreachable());
  await settle();
  expect(texts()).toEqual(["u1", "a1"]);
});
