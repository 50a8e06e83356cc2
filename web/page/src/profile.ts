// What the user has told the page of themself: a name, kept in this browser until it is erased.

/** Returns the name of a user; empty if there is none. */
export function readName(user: string): string {
  try {
    return localStorage.getItem(keyOf(user)) ?? "";
  } catch {
    return "";
  }
}

/** Keeps the name of a user; an empty one is none. */
export function writeName(user: string, name: string): void {
  try {
    if (name) localStorage.setItem(keyOf(user), name);
    else localStorage.removeItem(keyOf(user));
  } catch {
    // Full or forbidden: the name holds until the tab is closed.
  }
}

function keyOf(user: string): string {
  return `name:${user}`;
}
