// What the functions accept as a message.

/** How many characters a message may have, as the functions count them. */
export const LONGEST = 2000;

/** Whether the functions accept the text as a message. */
export function canBeSent(text: string): boolean {
  return /[^\s\p{Cc}\p{Cf}]/u.test(text) && lengthOf(text) <= LONGEST;
}

/** Returns the number of Unicode scalar values. */
export function lengthOf(text: string): number {
  let length = 0;
  for (const _ of text) length += 1;
  return length;
}
