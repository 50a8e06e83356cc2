// Other tabs of the same user in this browser: they show a turn as it streams, and learn of what was changed.
import type { Request } from "./pending.ts";

export type News =
  | { type: "turn"; character: string; turnId: string; request: Request }
  | { type: "changed"; character: string }
  /** The user has another name; empty for none. */
  | { type: "renamed"; name: string }
  /** All that is kept about the user was erased. */
  | { type: "erased" };

/** The way to the other tabs. */
export class Tabs {
  readonly #channel: BroadcastChannel | null;

  constructor(user: string, api: string, onNews: (news: News) => void) {
    this.#channel = typeof BroadcastChannel === "undefined" || !user ? null : new BroadcastChannel(`${api} ${user}`);
    this.#channel?.addEventListener("message", (event: MessageEvent<News>) => onNews(event.data));
  }

  tell(news: News): void {
    this.#channel?.postMessage(news);
  }
}
