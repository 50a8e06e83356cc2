/**
 * Moves the focus to the box for the next message, where a person at a keyboard goes on when what had the focus is gone.
 * On a phone that would open the keyboard over the conversation.
 */
export function focusBox(): void {
  if (!matchMedia("(pointer: coarse)").matches) document.getElementById("message")?.focus();
}
