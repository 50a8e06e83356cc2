import { signal } from "@preact/signals";

/** What a screen reader says next: whole replies and changes of state, never a part of a reply. */
export const announcement = signal("");

/** Makes screen readers say the text, also if it is the same as the last one. */
export function announce(text: string): void {
  announcement.value = announcement.peek() === text ? `${text}\u00a0` : text;
}
