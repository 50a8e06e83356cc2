// The token of the user. It comes in the fragment of the address, which no server sees, and leaves it at once, so that
// it is neither in the history of the browser nor in a link that the user copies. Until the tab is closed it is kept in
// `sessionStorage`, because a page that is reloaded must go on.
import { signal } from "@preact/signals";

const KEY = "token";

/** Why the page cannot ask the functions anything: no token, or one that they refuse. Null if it can. */
export const locked = signal<"missing" | "expired" | "invalid" | null>(null);

let token = "";
const listeners = new Set<() => void>();

/** Takes the token from the address or, after a reload, from the tab. Takes later ones too, as they are opened. */
export function watchToken(): void {
  token = takeFromAddress() ?? sessionStorage.getItem(KEY) ?? "";
  locked.value = token ? faultOf(token) : "missing";
  addEventListener("hashchange", () => {
    const user = userOfToken();
    const next = takeFromAddress();
    if (!next) return;
    token = next;
    if (userOfToken() !== user) {
      // Nothing of one user may be left for another.
      beginAnew();
      return;
    }
    locked.value = faultOf(token);
    for (const listener of listeners) listener();
  });
}

/** Returns the token to send. */
export function currentToken(): string {
  return token;
}

/** Forgets all that the tab keeps but the token, and loads the page again, as for a new user. */
export function beginAnew(): void {
  sessionStorage.clear();
  sessionStorage.setItem(KEY, token);
  history.replaceState(null, "", location.pathname + location.search);
  location.reload();
}

/** Fetches as the platform does, and locks the page when the functions refuse its token. */
export const fetchAsUser: typeof fetch = async (input, init) => {
  const sent = token;
  const response = await fetch(input, init);
  // A later token may have come meanwhile.
  if (response.status === 401 && sent === token) {
    locked.value = Number(claimOfToken("exp")) * 1000 <= Date.now() ? "expired" : "invalid";
  }
  return response;
};

/** Calls the function whenever a new token has come. */
export function onNewToken(listener: () => void): void {
  listeners.add(listener);
}

/** Waits for a token that is not refused: for a new one, unless that has come while the refusal was on its way. */
export function acceptedToken(): Promise<void> {
  if (locked.peek() === null) return Promise.resolve();
  return new Promise((resolve) => {
    const listener = (): void => {
      listeners.delete(listener);
      resolve();
    };
    listeners.add(listener);
  });
}

/** Returns the user's id as the token says it, or an empty string. It is not checked here, and grants nothing. */
export function userOfToken(): string {
  return String(claimOfToken("sub") ?? "");
}

/** Returns what the token says of itself under a name. Undefined if it says nothing. */
function claimOfToken(name: string): unknown {
  try {
    const segment = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(segment), (char) => char.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return typeof claims === "object" && claims !== null ? (claims as Record<string, unknown>)[name] : undefined;
  } catch {
    return undefined;
  }
}

/** Returns what is wrong with a token before anyone is asked: the client sends none that no header can hold. */
function faultOf(token: string): "invalid" | null {
  return /^[!-~]+$/.test(token) ? null : "invalid";
}

function takeFromAddress(): string | null {
  const parameters = new URLSearchParams(location.hash.replace(/^#\/?/, ""));
  const found = parameters.get("token");
  if (!found) return null;
  sessionStorage.setItem(KEY, found);
  history.replaceState(history.state, "", location.pathname + location.search);
  return found;
}
