// The transcript of one conversation: what is stored of it, as it is read page by page, and what is shown besides.
// Knows nothing of turns.
import { batch, computed, signal } from "@preact/signals";
import { ChatError, type CompanionChat, type History } from "../../src/client.js";
import { type Item, type Message, merged, withOlder } from "./items.ts";
import { isLocked, isPassing, isUnreadable, RETRY_AFTER_MS, reasonOf } from "./reasons.ts";

const PAGE = 40;

type State =
  | { kind: "new" | "loading" | "ready" }
  /** Tried again by itself. */
  | { kind: "unreadable" | "unreachable" }
  | { kind: "refused"; reason: string };

export class Stored {
  /** All messages that are shown, oldest first. */
  readonly items = signal<readonly Item[]>([]);
  readonly state = signal<State>({ kind: "new" });
  /** Whether older messages are stored than those that are shown. */
  readonly hasMore = signal(false);
  /** Whether it is known that nothing is stored, and nothing is shown. */
  readonly isEmpty = computed(
    () => this.state.value.kind === "ready" && this.items.value.length === 0 && !this.hasMore.value,
  );

  #reading: Promise<readonly Message[] | null> | null = null;
  #readingOlder = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly id: string,
    private readonly client: CompanionChat,
    /** Called when it is time to read what could not be read. */
    private readonly retry: () => void,
  ) {}

  /** Reads the newest messages, and returns them. Returns null if they cannot be read at all, or not by this user. */
  read(): Promise<readonly Message[] | null> {
    this.#reading ??= this.#read().finally(() => (this.#reading = null));
    return this.#reading;
  }

  /** Reads the newest messages again. If that fails, all stays. */
  async reread(): Promise<void> {
    try {
      const page = await this.#newest();
      // A turn that runs may take the place of some of this.
      if (!this.items.peek().some((item) => item.live)) this.#take(page);
    } catch {
      // The next change, or a reload, reads them again.
    }
  }

  /** Reads the page before the oldest message that is shown. */
  async older(): Promise<void> {
    const first = this.items.peek().find((item) => item.id !== null);
    if (!this.hasMore.peek() || this.#readingOlder || !first?.id) return;
    this.#readingOlder = true;
    try {
      const page = await this.client.history(this.id, { limit: PAGE, before: first.id });
      // What it continues was removed meanwhile, and what is before that may be, too.
      if (!this.items.peek().includes(first)) return;
      batch(() => {
        this.items.value = withOlder(this.items.peek(), page.messages);
        this.hasMore.value = page.has_more;
      });
    } catch (error) {
      if (error instanceof ChatError && error.code === "message_not_found") void this.reread();
      // Otherwise scrolling up asks again.
    } finally {
      this.#readingOlder = false;
    }
  }

  async #read(): Promise<readonly Message[] | null> {
    clearTimeout(this.#timer);
    if (this.state.peek().kind === "new") this.state.value = { kind: "loading" };
    try {
      const page = await this.#newest();
      batch(() => {
        this.#take(page);
        this.state.value = { kind: "ready" };
      });
      return page.messages;
    } catch (error) {
      this.#explain(error);
      return isPassing(error) ? [] : null;
    }
  }

  /** Asks for the newest page until nothing else changed the transcript meanwhile, which the page may not know of. */
  async #newest(): Promise<History> {
    for (;;) {
      const shown = this.items.peek();
      const page = await this.client.history(this.id, { limit: PAGE });
      if (this.items.peek() === shown) return page;
    }
  }

  #explain(error: unknown): void {
    if (isLocked(error)) {
      this.state.value = { kind: "new" };
    } else if (isPassing(error)) {
      this.state.value = { kind: isUnreadable(error) ? "unreadable" : "unreachable" };
      this.#timer = setTimeout(this.retry, RETRY_AFTER_MS);
    } else {
      this.state.value = { kind: "refused", reason: reasonOf(error) };
    }
  }

  #take(page: History): void {
    const { items, keepsOlder } = merged(this.items.peek(), page.messages, page.has_more);
    batch(() => {
      this.items.value = items;
      if (!keepsOlder) this.hasMore.value = page.has_more;
    });
  }
}
