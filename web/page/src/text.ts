// What the functions accept as a message, and as a name.

/** How many characters a message may have, as the functions count them. */
export const LONGEST = 2000;

/** Whether the functions accept the text as a message. */
export function canBeSent(text: string): boolean {
  return /[^\s\p{Cc}\p{Cf}]/u.test(text) && lengthOf(text) <= LONGEST;
}

/** How many characters the name of a user may have. */
const LONGEST_NAME = 64;

/** Whether the functions accept the text as the name of a user. */
export function canBeName(text: string): boolean {
  return /[^\s\p{Cf}]/u.test(text) && !/\p{Cc}/u.test(text) && lengthOf(text) <= LONGEST_NAME;
}

/** Returns the number of Unicode scalar values. */
export function lengthOf(text: string): number {
  let length = 0;
  for (const _ of text) length += 1;
  return length;
}
