/**
 * The text of one message, which may still grow. Whoever shows it is told what was added, so that a long reply is never
 * drawn twice.
 */
export class Prose {
  #text: string;
  readonly #watchers = new Set<(added: string | null) => void>();

  constructor(text = "") {
    this.#text = text;
  }

  /** All of the text so far. */
  get text(): string {
    return this.#text;
  }

  /** Adds to the end of the text. */
  append(added: string): void {
    if (!added) return;
    this.#text += added;
    for (const watcher of this.#watchers) watcher(added);
  }

  /** Makes the text empty, because it is about to come again. */
  clear(): void {
    if (!this.#text) return;
    this.#text = "";
    for (const watcher of this.#watchers) watcher(null);
  }

  /** Calls the function with each addition, and with null when the text was cleared. Returns how to end that. */
  watch(watcher: (added: string | null) => void): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }
}
