// The open conversation in the address, as `#/luna`, so that a reload and the browser's back button find it.
import type { House } from "./house.ts";
import { onNewToken } from "./token.ts";

/** Opens the conversation that the address names, now and whenever it changes. */
export function watchPlace(house: House): void {
  const read = (): void => {
    // A new token is on its way through the address: see token.ts.
    if (location.hash.includes("token=")) return;
    house.show(idInAddress());
  };
  read();
  // Until it is known where the user was last, a wide page shows the list alone, too.
  if (!house.open.value && !isNarrow()) void house.listed.then(() => openFirst(house));
  addEventListener("popstate", read);
  // It has taken the place of the conversation in the address.
  onNewToken(() => history.replaceState(null, "", addressOf(house.open.peek())));
}

/** Opens the conversation that the user was in last, or that with the first character, unless another was opened. */
function openFirst(house: House): void {
  const [first] = house.rows.value;
  if (first && !house.open.value) goTo(house, first.id, true);
}

/** Opens a conversation, or with null the list. */
export function goTo(house: House, id: string | null, replaces = false): void {
  if (replaces) history.replaceState(null, "", addressOf(id));
  else history.pushState(null, "", addressOf(id));
  house.show(id);
}

function addressOf(id: string | null): string {
  return id === null ? location.pathname + location.search : `#/${encodeURIComponent(id)}`;
}

/** Whether the list and a conversation do not fit side by side. The style sheet has the same limit. */
function isNarrow(): boolean {
  return matchMedia("(max-width: 719px)").matches;
}

function idInAddress(): string | null {
  const match = /^#\/(.+)$/.exec(location.hash);
  try {
    return match?.[1] ? decodeURIComponent(match[1]) : null;
  } catch {
    return null;
  }
}
