// The part of a conversation that is stored: what is shown of it, and how it is read. Knows nothing of turns.
import { batch, signal } from "@preact/signals";
import { ChatError, type CompanionChat } from "../../src/client.js";
import { type Item, type Message, merged, withOlder } from "./items.ts";
import { isLocked, isPassing, reasonOf } from "./reasons.ts";
import { refuseToken } from "./token.ts";

const PAGE = 40;
const RETRY_AFTER_MS = 4000;

export type State =
  | { kind: "new" | "loading" | "ready" }
  /** Tried again by itself. */
  | { kind: "unreadable" | "unreachable" }
  | { kind: "refused"; reason: string };

export abstract class Stored {
  readonly items = signal<readonly Item[]>([]);
  readonly state = signal<State>({ kind: "new" });
  readonly hasMore = signal(false);
  readonly loadingOlder = signal(false);

  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly id: string,
    protected readonly client: CompanionChat,
  ) {}

  /** Called when it is time to try again. */
  protected abstract load(): Promise<void>;

  /** Reads the newest messages, and returns them. Returns null if they cannot be read at all, or not by this user. */
  protected async read(): Promise<readonly Message[] | null> {
    clearTimeout(this.#timer);
    if (this.state.peek().kind === "new") this.state.value = { kind: "loading" };
    try {
      const page = await this.client.history(this.id, { limit: PAGE });
      batch(() => {
        this.#take(page.messages, page.has_more);
        this.state.value = { kind: "ready" };
      });
      return page.messages;
    } catch (error) {
      this.#explain(error);
      return isPassing(error) ? [] : null;
    }
  }

  /** Reads the newest messages again. If that fails, what is shown stays. */
  protected async reread(): Promise<void> {
    await this.replace([]);
  }

  #explain(error: unknown): void {
    if (isLocked(error)) {
      this.state.value = { kind: "new" };
      refuseToken();
    } else if (isPassing(error)) {
      const hasAnswer = error instanceof ChatError && error.code === "memory_unavailable";
      this.state.value = { kind: hasAnswer ? "unreadable" : "unreachable" };
      this.#timer = setTimeout(() => void this.load(), RETRY_AFTER_MS);
    } else {
      this.state.value = { kind: "refused", reason: reasonOf(error) };
    }
  }

  #take(messages: readonly Message[], hasMore: boolean): void {
    const { items, keepsOlder } = merged(this.items.peek(), messages, hasMore);
    batch(() => {
      this.items.value = items;
      if (!keepsOlder) this.hasMore.value = hasMore;
    });
  }

  /** Reads the page before the oldest message that is shown. */
  async older(): Promise<void> {
    const first = this.items.peek().find((item) => item.id !== null);
    if (!this.hasMore.peek() || this.loadingOlder.peek() || !first?.id) return;
    this.loadingOlder.value = true;
    try {
      const page = await this.client.history(this.id, { limit: PAGE, before: first.id });
      batch(() => {
        this.items.value = withOlder(this.items.peek(), page.messages);
        this.hasMore.value = page.has_more;
      });
    } catch (error) {
      if (isLocked(error)) refuseToken();
      else if (error instanceof ChatError && error.code === "message_not_found") void this.reread();
      // Otherwise scrolling up asks again.
    } finally {
      this.loadingOlder.value = false;
    }
  }

  /** Puts what is stored in the place of items that were shown before their ids were known. */
  protected async replace(shown: readonly Item[]): Promise<void> {
    try {
      const page = await this.client.history(this.id, { limit: PAGE });
      // A turn that began meanwhile may take the place of some of this.
      if (this.items.peek().some((item) => item.live)) return;
      const keys = new Set(shown.map((item) => item.key));
      batch(() => {
        this.items.value = this.items.peek().filter((item) => !keys.has(item.key));
        this.#take(page.messages, page.has_more);
      });
    } catch (error) {
      // They stay as they are shown.
      if (isLocked(error)) refuseToken();
    }
  }
}
