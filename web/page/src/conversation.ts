// One conversation: its turns, and what the user does with it. Knows nothing of the document.
import { batch, computed, signal } from "@preact/signals";
import { ChatError, type Character, type CompanionChat, type TurnEvent } from "../../src/client.js";
import { randomKey } from "../../src/key.js";
import { contextOf, type Greeting, greetingsOf, type Item, keyOf, local, notesOfEnd, notesOfUnsaved } from "./items.ts";
import { FRESH_MS, forgetPending, readDraft, readPending, type Request, writeDraft, writePending } from "./pending.ts";
import { isLocked, reasonOf } from "./reasons.ts";
import { Stored } from "./stored.ts";
import type { News } from "./tabs.ts";
import { canBeSent } from "./text.ts";
import { nextToken, refuseToken } from "./token.ts";
import { say, type Word } from "./words.ts";

/** What a conversation needs from the page around it. */
export interface Surroundings {
  client: CompanionChat;
  /** Tells the other tabs. */
  tell(news: News): void;
  /** Has screen readers say the text, while the conversation is open. */
  announce(text: string): void;
  /** Asks for the character unless it is known. Never fails. */
  learn(): Promise<void>;
  /** Called when a turn was stored, or messages were removed. */
  changed(): void;
}

/** The turn that runs. */
export interface Turn {
  id: string | null;
  /** `locked`: it waits for a new token. */
  connection: "open" | "lost" | "back" | "locked";
  stopping: boolean;
  /** Whether it can be stopped. Not known to be false until it has begun. */
  stoppable: boolean;
}

type Done = Extract<TurnEvent, { type: "done" }>;

/** Why the last thing that was asked did not work, and how to ask again. */
export interface Failure {
  text: string;
  again: (() => void) | null;
  dismiss: () => void;
}

export class Conversation extends Stored {
  readonly turn = signal<Turn | null>(null);
  readonly failure = signal<Failure | null>(null);
  readonly character = signal<Character | null>(null);
  /** Why there is nobody to talk to: the functions know no such character, or cannot read it. Null if there is. */
  readonly absence = signal<"missing" | "broken" | null>(null);
  /** Which of `greetings` is shown. */
  readonly greetingIndex = signal(0);
  readonly draft = signal("");
  readonly name = computed(() => this.character.value?.name ?? this.id);
  /** Whether the user may write: neither the conversation nor the character is known to be out of reach. */
  readonly canTalk = computed(() => this.state.value.kind !== "refused" && this.absence.value === null);
  /** The greetings that the user may choose from. */
  readonly greetings = computed(() => greetingsOf(this.character.value?.greetings ?? []));
  /** The greeting to show: only before the first message. */
  readonly greeting = computed<Greeting | null>(() =>
    this.state.value.kind === "ready" && this.items.value.length === 0
      ? (this.greetings.value[this.greetingIndex.value] ?? null)
      : null,
  );

  /** Ends the search for a turn that runs elsewhere. */
  #search: AbortController | null = null;

  constructor(
    id: string,
    private readonly around: Surroundings,
  ) {
    super(id, around.client);
    this.draft.value = readDraft(id);
  }

  // --- reading ----------------------------------------------------------------------------------------------------

  /** Reads the conversation when it is shown, or what is new in it. Goes on with the turn that ran before a reload. */
  open(): void {
    if (this.state.peek().kind === "new") void this.load();
    else void this.refresh();
  }

  /** Reads the newest messages again: another tab or device may have changed them. */
  async refresh(): Promise<void> {
    if (this.state.peek().kind !== "ready") return this.load();
    if (this.turn.peek()) return;
    this.#lookForTurn();
    const newest = this.items.peek().at(-1);
    await this.reread();
    // What was said of a message that is gone is gone with it.
    const isGone = newest && !this.items.peek().some((item) => item.key === newest.key);
    if (isGone && !this.turn.peek()) this.around.announce("");
  }

  protected override async load(): Promise<void> {
    const pending = this.turn.peek() ? null : readPending(this.id);
    if (!pending) this.#lookForTurn();
    const stored = await this.read();
    if (!stored || !pending || this.turn.peek()) return;
    if (stored.some((message) => keyOf(message) === pending.key)) {
      forgetPending(this.id);
    } else if (Date.now() - pending.began < FRESH_MS) {
      void this.#run(pending);
    } else {
      forgetPending(this.id);
      if (pending.kind !== "regenerate") this.write(pending.message);
    }
  }

  /** Shows the next greeting. */
  nextGreeting(): void {
    const count = this.greetings.peek().length;
    if (count > 0) this.greetingIndex.value = (this.greetingIndex.peek() + 1) % count;
  }

  // --- turns ------------------------------------------------------------------------------------------------------

  /** Keeps what the user is writing. */
  write(text: string): void {
    this.draft.value = text;
    writeDraft(this.id, text);
  }

  /** Sends what the user has written. Does nothing while a reply is written, or if there is nothing to send. */
  send(): void {
    const message = this.draft.peek();
    if (this.turn.peek() || !canBeSent(message)) return;
    this.write("");
    this.failure.value = null;
    const greeting = this.greeting.peek();
    void this.#run({ kind: "send", key: randomKey(), message, began: Date.now(), ...(greeting ? { greeting } : {}) });
  }

  /** Has the user's message before a reply answered again. */
  regenerate(reply: Item): void {
    const items = this.items.peek();
    const asked = items.slice(0, items.indexOf(reply)).findLast((item) => item.role === "user");
    if (this.turn.peek() || !asked?.id) return;
    this.failure.value = null;
    void this.#run({
      kind: "regenerate",
      key: randomKey(),
      message: asked.prose.text,
      msgId: asked.id,
      began: Date.now(),
    });
  }

  /** Puts another text in the place of a message of the user, and of all that follows. */
  edit(item: Item, message: string): void {
    if (this.turn.peek() || !item.id || !canBeSent(message)) return;
    this.failure.value = null;
    void this.#run({ kind: "edit", key: randomKey(), message, msgId: item.id, began: Date.now() });
  }

  /** Asks the turn to stop. */
  async stop(): Promise<void> {
    const turn = this.turn.peek();
    if (!turn || turn.stopping || !turn.stoppable) return;
    this.#change({ stopping: true });
    // Before it has begun it is stopped as soon as it has: see `#begun`.
    if (turn.id) await this.#askToStop(turn.id);
  }

  async #askToStop(turnId: string): Promise<void> {
    try {
      await this.client.stop(this.id, turnId);
    } catch (error) {
      if (isLocked(error)) refuseToken();
      else this.around.announce(say("notDone", { reason: reasonOf(error) }));
      this.#change({ stopping: false });
    }
  }

  #change(change: Partial<Turn>): void {
    const turn = this.turn.peek();
    if (turn) this.turn.value = { ...turn, ...change };
  }

  /** Runs a turn to its end, however long the connection is lost, and whichever token it needs. */
  async #run(request: Request): Promise<void> {
    this.#search?.abort();
    const before = this.items.peek();
    const asked = local("user", request.message);
    const reply = local("assistant", "", true);
    batch(() => {
      this.turn.value = { id: null, connection: "open", stopping: false, stoppable: true };
      this.items.value = [...contextOf(before, request), asked, reply];
    });
    writePending(this.id, request);
    void this.#announceNamed((name) => (this.turn.peek() ? say("writing", { name }) : null));

    for (;;) {
      try {
        const done = await this.#follow(this.#ask(request), [asked], reply, (turnId) => {
          this.around.tell({ type: "turn", character: this.id, turnId, request });
        });
        if (!done) throw new ChatError("connection_lost", "the turn ended without its last event");
        if (reply.prose.text === "") this.#notAnswered(request, before, asked);
        break;
      } catch (error) {
        if (isLocked(error)) {
          refuseToken();
          this.#change({ connection: "locked" });
          await nextToken();
          reply.prose.clear();
          this.#change({ connection: "open" });
          continue;
        }
        await this.#failed(error, request, before, asked, reply);
        break;
      }
    }
    forgetPending(this.id);
    this.around.tell({ type: "changed", character: this.id });
    this.around.changed();
    // A greeting was stored with the first turn, under an id that only the history names; an edit may have moved more.
    if (request.greeting || request.msgId) void this.refresh();
  }

  #ask(request: Request): AsyncIterable<TurnEvent> {
    const { client } = this;
    const options = {
      key: request.key,
      metadata: { client: "web", key: request.key },
      ...(request.greeting ? { greeting: request.greeting.number } : {}),
    };
    switch (request.kind) {
      case "send":
        return client.send(this.id, request.message, options);
      case "regenerate":
        return client.regenerate(this.id, request.msgId ?? "", options);
      case "edit":
        return client.edit(this.id, request.msgId ?? "", request.message, options);
    }
  }

  /** Shows the events of a turn. Returns the last one, if it came. `asked` is empty if the message is unknown. */
  async #follow(
    events: AsyncIterable<TurnEvent>,
    asked: readonly Item[],
    reply: Item,
    onStart: (turnId: string) => void,
  ): Promise<Done | null> {
    for await (const event of events) {
      switch (event.type) {
        case "start":
          this.#change({ id: event.turnId, stoppable: event.resumable });
          if (event.memory === "unavailable") this.#note(reply, "withoutMemory");
          if (event.resumable) onStart(event.turnId);
          if (this.turn.peek()?.stopping) void this.#askToStop(event.turnId);
          break;
        case "text":
          reply.prose.append(event.text);
          break;
        case "connection":
          this.#change({ connection: event.state });
          this.around.announce(say(event.state === "lost" ? "lost" : "restored"));
          break;
        case "done":
          this.#done(event, asked, reply);
          return event;
      }
    }
    return null;
  }

  #done(event: Done, asked: readonly Item[], reply: Item): void {
    const items = this.items.peek();
    const user = asked.at(-1);
    const isStoredElsewhere = items.some((item) => item.id === event.msgId);
    const notes = [...notesOfEnd(event.finishReason), ...(event.saved ? [] : notesOfUnsaved(event.unsaved))];
    const isEmpty = reply.prose.text === "";
    const next = items.flatMap((item): Item[] => {
      if (item.key === reply.key) {
        if (isStoredElsewhere) return [];
        return [{ ...item, id: event.saved ? event.msgId : null, live: false, notes: [...item.notes, ...notes] }];
      }
      if (item.key === user?.key) {
        if (isStoredElsewhere) return [];
        return [{ ...item, id: event.saved ? event.userMsgId : null }];
      }
      return [item];
    });
    batch(() => {
      this.items.value = isEmpty ? next.filter((item) => item.key !== reply.key) : next;
      this.turn.value = null;
    });
    void this.#announceNamed((name) => {
      const tail = notes.map((note) => say(note, { name })).join(" ");
      return `${isEmpty ? say("noReply") : say("said", { name, text: reply.prose.text })} ${tail}`.trim();
    });
  }

  /** Announces a text with the name of the character, which is not known yet just after a reload; null is no text. */
  async #announceNamed(textOf: (name: string) => string | null): Promise<void> {
    if (!this.character.peek()) await this.around.learn();
    const text = textOf(this.name.peek());
    if (text !== null) this.around.announce(text);
  }

  /** The model said nothing, or was stopped before it did. Nothing is stored, and the message is the user's again. */
  #notAnswered(request: Request, before: readonly Item[], asked: Item): void {
    if (request.msgId) this.items.value = before;
    this.#offer(say("noReply"), { ...request, key: randomKey(), began: Date.now() }, asked, false);
  }

  async #failed(error: unknown, request: Request, before: readonly Item[], asked: Item, reply: Item): Promise<void> {
    const isSaved = error instanceof ChatError && error.saved === true;
    const hasText = reply.prose.text !== "";
    this.turn.value = null;
    if (isSaved) {
      this.#settle(reply);
      this.around.announce(say("endedError"));
      await this.replace([asked, reply]);
      return;
    }
    // The old messages are still stored.
    if (request.msgId) this.items.value = before;
    else this.#settle(reply);
    // The same key leads to a turn that may still be there. A turn that is known to have failed would fail again by it.
    const isOver = error instanceof ChatError && error.saved === false && error.code !== "turn_lost";
    const next: Request = { ...request, key: isOver ? randomKey() : request.key, began: Date.now() };
    const word = hasText ? "brokeOff" : request.kind === "send" ? "failed" : "notDone";
    this.#offer(say(word, { reason: reasonOf(error) }), next, asked, hasText);
  }

  /** Shows why there is no reply, and offers to ask again. */
  #offer(text: string, next: Request, asked: Item, keepsText: boolean): void {
    this.around.announce(text);
    this.failure.value = {
      text,
      again: () => this.#again(asked, next),
      dismiss: () => {
        this.failure.value = null;
        this.around.announce("");
        if (next.kind === "send" && !keepsText) this.#takeBack(asked);
        else if (next.kind === "edit" && !this.draft.peek()) this.write(next.message);
      },
    };
  }

  /** Ends a reply that broke off: what came of it stays, and is marked. */
  #settle(reply: Item): void {
    this.items.value = this.items.peek().flatMap((item) => {
      if (item.key !== reply.key || !item.live) return [item];
      return item.prose.text ? [{ ...item, live: false, notes: [...item.notes, "endedError" as const] }] : [];
    });
  }

  /** Asks again what failed, in the place of the attempt. */
  #again(asked: Item, request: Request): void {
    if (this.turn.peek()) return;
    batch(() => {
      this.failure.value = null;
      if (request.kind === "send") this.#dropFrom(asked);
    });
    void this.#run(request);
  }

  /** Moves a message that was not sent back to where the user wrote it. */
  #takeBack(asked: Item): void {
    batch(() => {
      this.failure.value = null;
      this.#dropFrom(asked);
      if (!this.draft.peek()) this.write(asked.prose.text);
    });
  }

  #dropFrom(asked: Item): void {
    const items = this.items.peek();
    const index = items.findIndex((item) => item.key === asked.key);
    if (index < 0) return;
    const rest = items.filter((item, at) => at < index || item.id !== null);
    // Without a message after it, the greeting is the user's to choose again.
    this.items.value = rest.some((item) => item.role === "user" || item.id !== null) ? rest : [];
  }

  #note(item: Item, note: Word): void {
    this.items.value = this.items.peek().map((one) => {
      return one.key === item.key && !one.notes.includes(note) ? { ...one, notes: [...one.notes, note] } : one;
    });
  }

  /** Shows a turn that another tab has begun. */
  join(turnId: string, request: Request): void {
    if (this.state.peek().kind === "new" || this.turn.peek()) return;
    this.#lookForTurn(turnId, request);
  }

  /** Shows the turn that runs, if one does: of another device, or of another tab. */
  #lookForTurn(turnId?: string, request?: Request): void {
    this.#search?.abort();
    const search = new AbortController();
    this.#search = search;
    void this.#attach(search, turnId, request);
  }

  async #attach(search: AbortController, turnId?: string, request?: Request): Promise<void> {
    const options = { signal: search.signal, ...(turnId ? { turnId } : {}) };
    const events = this.client.resume(this.id, options)[Symbol.asyncIterator]();
    let before: readonly Item[] | null = null;
    const asked = request ? [local("user", request.message)] : [];
    const reply = local("assistant", "", true);
    try {
      let first = await events.next();
      // A connection that is lost before anything came is not a turn.
      while (!first.done && first.value.type === "connection") first = await events.next();
      // Not its own: that began in the meantime.
      if (first.done || this.turn.peek() || search.signal.aborted) return;
      before = this.items.peek();
      const shown = [...(request ? contextOf(before, request) : before), ...asked, reply];
      batch(() => {
        this.turn.value = { id: turnId ?? null, connection: "open", stopping: false, stoppable: true };
        this.items.value = shown;
      });
      if (this.#search === search) this.#search = null;
      const all = { [Symbol.asyncIterator]: () => resumed(first.value, events) };
      await this.#follow(all, asked, reply, () => undefined);
    } catch (error) {
      if (search.signal.aborted && !before) return;
      if (isLocked(error)) refuseToken();
    } finally {
      if (this.#search === search) this.#search = null;
    }
    if (!before) return;
    this.turn.value = null;
    this.#settle(reply);
    // Whatever came of it is in the history, with the message that was answered.
    await this.replace(
      [...asked, reply].filter((item) => !this.items.peek().some((one) => one.key === item.key && one.id)),
    );
    this.around.changed();
  }

  // --- removing ---------------------------------------------------------------------------------------------------

  /** Removes a message, its turn, and all that follows. */
  async deleteFrom(item: Item): Promise<void> {
    await this.#remove(async () => {
      if (item.id) await this.client.rewind(this.id, item.id);
      const items = this.items.peek();
      let index = items.findIndex((one) => one.key === item.key);
      while (index > 0 && items[index]?.role !== "user") index -= 1;
      // The greeting belongs to the first turn.
      const rest = items.slice(0, Math.max(index, 0));
      this.items.value = rest.some((one) => one.role === "user") || this.hasMore.peek() ? rest : [];
    });
  }

  /** Removes the whole conversation. */
  async clear(): Promise<void> {
    await this.#remove(async () => {
      await this.client.clear(this.id);
      batch(() => {
        this.items.value = this.items.peek().filter((item) => item.live);
        this.hasMore.value = false;
      });
    });
  }

  async #remove(remove: () => Promise<void>): Promise<void> {
    this.failure.value = null;
    try {
      await remove();
      this.around.announce("");
      this.around.tell({ type: "changed", character: this.id });
      this.around.changed();
    } catch (error) {
      if (isLocked(error)) refuseToken();
      const text = say("notDone", { reason: reasonOf(error) });
      this.failure.value = { text, again: null, dismiss: () => (this.failure.value = null) };
      this.around.announce(text);
    }
  }
}

async function* resumed(first: TurnEvent, rest: AsyncIterator<TurnEvent>): AsyncGenerator<TurnEvent> {
  yield first;
  for (;;) {
    const next = await rest.next();
    if (next.done) return;
    yield next.value;
  }
}
