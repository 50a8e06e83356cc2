/**
 * Whether a key belongs to a word that is being composed, as in Chinese: Enter chooses it, and Esc gives it up. Safari
 * ends the composition before it tells of the key, which then has the code 229.
 */
export function isComposing(event: KeyboardEvent): boolean {
  return event.isComposing || event.keyCode === 229;
}
