// One conversation: what the user does with it, and what becomes of that. Knows nothing of the document.
import { batch, computed, signal } from "@preact/signals";
import { ChatError, type TurnEvent } from "../../src/client.js";
import { randomKey } from "../../src/key.js";
import { type Attempt, Following, type Surroundings } from "./following.ts";
import { type Greeting, greetingsOf, type Item, keyOf, local, noted, withoutAttempt, withoutFrom } from "./items.ts";
import { FRESH_MS, forgetPending, readDraft, readPending, type Request, writeDraft, writePending } from "./pending.ts";
import { isFinal, isStored, reasonOf } from "./reasons.ts";
import { Stored } from "./stored.ts";
import { canBeSent } from "./text.ts";
import { say } from "./words.ts";

/** Why the last thing that was asked did not work, and how to ask again. */
interface Failure {
  text: string;
  /** The message that was not sent, if there is one. */
  unsent?: Item;
  /** Null if it would only fail again. */
  again: (() => void) | null;
  dismiss: () => void;
}

export class Conversation {
  readonly stored: Stored;
  readonly following: Following;
  readonly failure = signal<Failure | null>(null);
  /** Which of `greetings` is shown. */
  readonly greetingIndex = signal(0);
  readonly draft = signal("");
  /** Whether something was changed elsewhere, or may have been, while a turn ran here. */
  #isBehind = false;
  readonly name = computed(() => this.around.character.value?.name ?? this.id);
  /** Whether the user may write: neither the conversation nor the character is known to be out of reach. */
  readonly canTalk = computed(
    () => this.stored.state.value.kind !== "refused" && this.around.absence.value === null,
  );
  /** The greetings that the user may choose from. */
  readonly greetings = computed(() => greetingsOf(this.around.character.value?.greetings ?? []));
  /** The greeting to show: only before the first message. */
  readonly greeting = computed<Greeting | null>(() =>
    this.stored.isEmpty.value ? (this.greetings.value[this.greetingIndex.value] ?? null) : null,
  );

  constructor(
    readonly id: string,
    readonly around: Surroundings,
  ) {
    this.stored = new Stored(id, around.client, () => void this.refresh());
    this.following = new Following(id, around, this.stored);
    this.draft.value = readDraft(id);
  }

  /**
   * Reads the conversation, or what is new in it: another tab or device may have changed it. Shows the turn that runs,
   * and goes on with the one that ran before a reload.
   */
  async refresh(): Promise<void> {
    void this.around.learn();
    if (this.stored.state.peek().kind === "ready") await this.#renew();
    else await this.#load();
  }

  async #renew(): Promise<void> {
    if (this.following.turn.peek()) {
      this.#isBehind = true;
      return;
    }
    void this.following.look();
    const newest = this.stored.items.peek().at(-1);
    await this.stored.reread();
    // What was said of a message that is gone is gone with it.
    const isGone = newest && !this.stored.items.peek().some((item) => item.key === newest.key);
    if (isGone && !this.following.turn.peek()) this.around.announce("");
  }

  async #load(): Promise<void> {
    const pending = this.following.turn.peek() ? null : readPending(this.id);
    if (!pending || pending.failed) void this.following.look();
    const messages = await this.stored.read();
    if (!messages || !pending || this.following.turn.peek()) return;
    if (messages.some((message) => keyOf(message) === pending.key)) {
      forgetPending(this.id);
    } else if (pending.failed) {
      this.#offerAgain(pending);
    } else if (Date.now() - pending.began < FRESH_MS) {
      void this.#run(pending);
    } else {
      forgetPending(this.id);
      if (pending.kind !== "regenerate") this.#giveBack(pending.message);
    }
  }

  /** Shows a turn that another tab has begun. */
  join(turnId: string, request: Request): void {
    if (this.following.turn.peek()) this.#isBehind = true;
    else if (this.stored.state.peek().kind !== "new") void this.following.look(turnId, request);
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

  /** Gives the user a text back, before what is in the box. */
  #giveBack(text: string): void {
    const draft = this.draft.peek();
    this.write(draft ? `${text}\n\n${draft}` : text);
  }

  /** Sends what the user has written. Does nothing while a reply is written, or if there is nothing to send. */
  send(): void {
    const message = this.draft.peek();
    if (this.following.turn.peek() || !canBeSent(message)) return;
    this.write("");
    this.#passOver();
    const greeting = this.greeting.peek();
    void this.#run(this.#request("send", message, greeting ? { greeting } : {}));
  }

  /** Has the user's message before a reply answered again. */
  regenerate(reply: Item): void {
    const items = this.stored.items.peek();
    const asked = items.slice(0, items.indexOf(reply)).findLast((item) => item.role === "user");
    if (asked) this.#replace("regenerate", asked, asked.prose.text);
  }

  /** Puts another text in the place of a message of the user, and of all that follows. */
  edit(item: Item, message: string): void {
    if (canBeSent(message)) this.#replace("edit", item, message);
  }

  #replace(kind: "regenerate" | "edit", { id }: Item, message: string): void {
    if (this.following.turn.peek() || !id) return;
    this.#passOver();
    void this.#run(this.#request(kind, message, { msgId: id }));
  }

  #request(kind: Request["kind"], message: string, more: Partial<Request>): Request {
    const userName = this.around.userName.peek();
    return { kind, key: randomKey(), message, began: Date.now(), ...(userName ? { userName } : {}), ...more };
  }

  async #run(request: Request): Promise<void> {
    writePending(this.id, request);
    const attempt = await this.following.run(request, () => this.#ask(request));
    forgetPending(this.id);
    this.#conclude(request, attempt);
    this.around.tell({ type: "changed", character: this.id });
    this.around.changed();
    if (this.#isBehind) {
      this.#isBehind = false;
      void this.refresh();
    } else if (isStored(attempt.error) || request.greeting || request.msgId) {
      // Only the history has the ids of a turn that broke off, and of a greeting, which is stored with the first turn. An
      // edit may have moved more.
      void this.stored.reread();
    }
  }

  #ask(request: Request): AsyncIterable<TurnEvent> {
    const { client } = this.around;
    const options = {
      key: request.key,
      metadata: { client: "web", key: request.key },
      ...(request.userName ? { userName: request.userName } : {}),
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

  /** Shows why there is no reply, if there is none. */
  #conclude(request: Request, { asked, reply, error }: Attempt): void {
    const hasText = reply.prose.text !== "";
    if (error === null && hasText) return;
    if (isStored(error)) {
      this.around.announce(say("endedError"));
      return;
    }
    if (error === null) {
      // The model said nothing, or was stopped before it did: nothing is stored, and the message is the user's again.
      this.#offer(say("noReply"), { ...request, key: randomKey(), began: Date.now() }, asked, false);
      return;
    }
    // The same key leads to a turn that may still be there. A turn that is known to have failed would fail again by it.
    const isOver = error instanceof ChatError && error.saved === false && error.code !== "turn_lost";
    const next: Request = { ...request, key: isOver ? randomKey() : request.key, began: Date.now() };
    const word = hasText ? "brokeOff" : request.kind === "send" ? "failed" : "notDone";
    this.#offer(say(word, { reason: reasonOf(error) }), next, asked, hasText, isFinal(error));
  }

  /** Shows why there is no reply, and offers to ask again, unless that would fail, too. */
  #offer(text: string, next: Request, asked: Item, keepsText: boolean, isFinal = false): void {
    const isUnsent = next.kind === "send" && !keepsText;
    // What the user has written is still there after a reload.
    if (isUnsent || next.kind === "edit") writePending(this.id, { ...next, failed: { text, isFinal } });
    this.around.announce(text);
    this.failure.value = {
      text,
      ...(isUnsent ? { unsent: asked } : {}),
      again: isFinal ? null : () => this.#again(asked, next),
      dismiss: () => {
        this.failure.value = null;
        forgetPending(this.id);
        this.around.announce("");
        if (isUnsent) this.#takeBack(asked);
        else if (next.kind === "edit") this.#giveBack(next.message);
      },
    };
  }

  /** Shows what had failed before the page was reloaded. */
  #offerAgain({ failed, ...next }: Request): void {
    if (!failed || this.failure.peek()) return;
    const asked = local("user", next.message, { requestKey: next.key });
    if (next.kind === "send") this.stored.items.value = [...this.stored.items.peek(), asked];
    this.#offer(failed.text, next, asked, false, failed.isFinal);
  }

  /** Says no more why the last thing failed. A message that was not sent keeps a mark. */
  #passOver(): void {
    const unsent = this.failure.peek()?.unsent;
    batch(() => {
      this.failure.value = null;
      if (unsent) this.stored.items.value = noted(this.stored.items.peek(), unsent, "unsent");
    });
  }

  /** Asks again what failed, in the place of the attempt. */
  #again(asked: Item, request: Request): void {
    if (this.following.turn.peek()) return;
    batch(() => {
      this.failure.value = null;
      if (request.kind === "send") this.#drop(asked);
    });
    void this.#run(request);
  }

  /** Moves a message that was not sent back to where the user wrote it. */
  #takeBack(asked: Item): void {
    // It was stored all the same if it has given way to what is stored.
    if (!this.stored.items.peek().some((item) => item.key === asked.key)) return;
    this.#drop(asked);
    this.#giveBack(asked.prose.text);
  }

  #drop(asked: Item): void {
    this.stored.items.value = withoutAttempt(this.stored.items.peek(), asked);
  }

  // --- removing ---------------------------------------------------------------------------------------------------

  /** Removes a message, its turn, and all that follows. */
  async deleteFrom(item: Item): Promise<void> {
    await this.#remove(async () => {
      if (item.id) await this.around.client.rewind(this.id, item.id);
      this.stored.items.value = withoutFrom(this.stored.items.peek(), item);
      if (this.stored.hasMore.peek()) await this.stored.reread();
    });
  }

  /** Removes the whole conversation. */
  async clear(): Promise<void> {
    await this.#remove(async () => {
      await this.around.client.clear(this.id);
      batch(() => {
        this.stored.items.value = this.stored.items.peek().filter((item) => item.live);
        this.stored.hasMore.value = false;
      });
    });
  }

  async #remove(remove: () => Promise<void>): Promise<void> {
    this.#passOver();
    try {
      await remove();
      forgetPending(this.id);
      this.around.announce("");
      this.around.tell({ type: "changed", character: this.id });
      this.around.changed();
    } catch (error) {
      const text = say("notDone", { reason: reasonOf(error) });
      this.failure.value = { text, again: null, dismiss: () => (this.failure.value = null) };
      this.around.announce(text);
    }
  }
}
