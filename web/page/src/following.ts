// The turn of one conversation that runs: one that this page has begun, or one that was begun elsewhere. Its events change
// the transcript.
import { batch, type ReadonlySignal, signal } from "@preact/signals";
import { type Character, ChatError, type CompanionChat, type TurnEvent } from "../../src/client.js";
import { contextOf, finished, type Item, local, noted, settled, withoutAttempt } from "./items.ts";
import { notesOfDone } from "./notes.ts";
import type { Request } from "./pending.ts";
import { isLocked, isStored, reasonOf } from "./reasons.ts";
import type { Stored } from "./stored.ts";
import type { News } from "./tabs.ts";
import { acceptedToken } from "./token.ts";
import { say } from "./words.ts";

/** What a conversation needs from the page around it. */
export interface Surroundings {
  client: CompanionChat;
  /** What is known of the character; null while that is nothing. */
  character: ReadonlySignal<Character | null>;
  /** Why there is nobody to talk to: the functions know no such character, or cannot read it. Null if there is. */
  absence: ReadonlySignal<"missing" | "broken" | null>;
  /** What characters call the user; empty if that is left to them. */
  userName: ReadonlySignal<string>;
  /** Asks for the character unless it is known. Never fails. */
  learn(): Promise<void>;
  /** Tells the other tabs. */
  tell(news: News): void;
  /** Has screen readers say the text, while the conversation is open. */
  announce(text: string): void;
  /** Called when a turn was stored, or messages were removed. */
  changed(): void;
}

/** The turn that runs. */
interface Turn {
  /** Where its text is shown. No two turns have the same. */
  reply: Item;
  /** Null until it has begun. */
  id: string | null;
  /** `locked`: it waits for a new token. */
  connection: "open" | "lost" | "back" | "locked";
  stopping: boolean;
  /** Whether it can be stopped. Not known to be false until it has begun. */
  stoppable: boolean;
}

/** What became of a request. */
export interface Attempt {
  asked: Item;
  reply: Item;
  /** Why there is no reply; null if the turn has ended as it should. */
  error: unknown;
}

export class Following {
  readonly turn = signal<Turn | null>(null);

  /** Ends the search for a turn that runs elsewhere. */
  #search: AbortController | null = null;

  constructor(
    private readonly id: string,
    private readonly around: Surroundings,
    private readonly stored: Stored,
  ) {}

  /** Runs a turn to its end, however long the connection is lost, and whichever token it needs. */
  async run(request: Request, events: () => AsyncIterable<TurnEvent>): Promise<Attempt> {
    this.#search?.abort();
    const asked = local("user", request.message, { requestKey: request.key });
    const reply = local("assistant", "", { live: true, requestKey: request.key });
    const replaced = this.#show(reply, asked, request);
    // What was to be replaced is still stored.
    const undo = (): void => this.#end(reply, withoutAttempt(this.stored.items.peek(), asked, replaced));
    for (;;) {
      void this.#announceNamed((name) => (this.#runs(reply) && !this.#isLocked() ? say("writing", { name }) : null));
      try {
        for await (const event of events()) {
          if (event.type === "start" && event.resumable) {
            this.around.tell({ type: "turn", character: this.id, turnId: event.turnId, request });
          }
          this.#apply(event, asked, reply);
          if (event.type !== "done") continue;
          if (request.msgId && reply.prose.text === "") undo();
          return { asked, reply, error: null };
        }
        throw new ChatError("connection_lost", "the turn ended without its last event");
      } catch (error) {
        if (!isLocked(error)) {
          if (request.msgId && !isStored(error)) undo();
          else this.#end(reply, settled(this.stored.items.peek(), reply));
          return { asked, reply, error };
        }
        this.#change(reply, { connection: "locked" });
        // Nobody writes until there is a token, which the page asks for.
        this.around.announce("");
        await acceptedToken();
        reply.prose.clear();
        this.#change(reply, { connection: "open" });
      }
    }
  }

  /**
   * Shows a turn that was begun elsewhere, while none runs here: the one that another tab has told of, or else the one
   * that another device has begun, if there is one.
   */
  async look(turnId?: string, request?: Request): Promise<void> {
    if (this.turn.peek()) return;
    this.#search?.abort();
    const search = new AbortController();
    this.#search = search;
    const asked = request && local("user", request.message);
    const reply = local("assistant", "", { live: true });
    let replaced: readonly Item[] | null = null;
    let isSaved = false;
    let failure: unknown = null;
    try {
      for await (const event of this.around.client.resume(this.id, {
        signal: search.signal,
        ...(turnId ? { turnId } : {}),
      })) {
        // A connection that is lost before anything came is not a turn.
        if (!replaced && event.type === "connection") continue;
        if (!replaced) {
          // It is this page's own, or an earlier one than that.
          if (this.turn.peek() || search.signal.aborted) return;
          replaced = this.#show(reply, asked, request);
        }
        this.#apply(event, asked, reply);
        if (event.type === "done") {
          isSaved = event.saved;
          break;
        }
      }
    } catch (error) {
      failure = error;
    }
    if (!replaced) return;
    // What came of a turn that is not known to be stored is in the history, if it is anywhere.
    if (!isSaved) this.#end(reply, withoutAttempt(this.stored.items.peek(), asked ?? reply, replaced));
    // A new token is a reason to look again.
    if (isLocked(failure)) return;
    // The history has the message that was answered, too.
    await this.stored.reread();
    this.around.changed();
  }

  /** Asks the turn to stop. */
  async stop(): Promise<void> {
    const turn = this.turn.peek();
    if (!turn || turn.stopping || !turn.stoppable) return;
    this.#change(turn.reply, { stopping: true });
    // Before it has begun it is stopped as soon as it has: see `#apply`.
    if (turn.id) await this.#askToStop(turn.id, turn.reply);
  }

  async #askToStop(turnId: string, reply: Item): Promise<void> {
    try {
      await this.around.client.stop(this.id, turnId);
    } catch (error) {
      if (this.#runs(reply) && !isLocked(error)) this.around.announce(say("notDone", { reason: reasonOf(error) }));
      this.#change(reply, { stopping: false });
    }
  }

  /** Shows a turn that begins. Returns what it takes the place of. */
  #show(reply: Item, asked: Item | undefined, request: Request | undefined): readonly Item[] {
    const before = this.stored.items.peek();
    const context = request ? contextOf(before, request) : before;
    batch(() => {
      this.turn.value = { reply, id: null, connection: "open", stopping: false, stoppable: true };
      this.stored.items.value = [...context, ...(asked ? [asked] : []), reply];
    });
    return before.slice(context.length);
  }

  #apply(event: TurnEvent, asked: Item | undefined, reply: Item): void {
    const { items } = this.stored;
    switch (event.type) {
      case "start":
        this.#change(reply, { id: event.turnId, stoppable: event.resumable });
        if (event.memory === "unavailable") items.value = noted(items.peek(), reply, "withoutMemory");
        if (this.turn.peek()?.stopping) void this.#askToStop(event.turnId, reply);
        break;
      case "text":
        reply.prose.append(event.text);
        break;
      case "connection":
        this.#change(reply, { connection: event.state });
        this.around.announce(say(event.state === "lost" ? "lost" : "restored"));
        break;
      case "done":
        this.#end(reply, finished(items.peek(), event, asked, reply));
        void this.#announceNamed((name) => {
          const text = reply.prose.text === "" ? say("noReply") : say("said", { name, text: reply.prose.text });
          return [text, ...notesOfDone(event).map((note) => say(note, { name }))].join(" ");
        });
        break;
    }
  }

  #isLocked(): boolean {
    return this.turn.peek()?.connection === "locked";
  }

  #runs(reply: Item): boolean {
    return this.turn.peek()?.reply === reply;
  }

  #change(reply: Item, change: Partial<Turn>): void {
    const turn = this.turn.peek();
    if (turn?.reply === reply) this.turn.value = { ...turn, ...change };
  }

  /** Ends the turn, and in the same step changes the transcript, which so never has a reply that nothing writes. */
  #end(reply: Item, items: readonly Item[]): void {
    batch(() => {
      this.stored.items.value = items;
      if (this.#runs(reply)) this.turn.value = null;
    });
  }

  /** Announces a text with the name of the character, which is not known yet just after a reload; null is no text. */
  async #announceNamed(textOf: (name: string) => string | null): Promise<void> {
    await this.around.learn();
    const text = textOf(this.around.character.peek()?.name ?? this.id);
    if (text !== null) this.around.announce(text);
  }
}
