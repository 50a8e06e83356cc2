// What the page is told by those who serve it: where the functions are, and which characters to offer.

/** The address of the functions: that in `index.html`, or else the page's own origin. */
export const api =
  document.querySelector<HTMLMetaElement>('meta[name="chat-api"]')?.content.replace(/\/+$/, "") || location.origin;

/** Returns the characters to offer besides those of the user's sessions: those in `config.json`, or else the samples. */
export async function readCharacters(): Promise<string[]> {
  try {
    const response = await fetch("./config.json");
    const given: unknown = response.ok ? await response.json() : null;
    if (typeof given === "object" && given !== null && "characters" in given && Array.isArray(given.characters)) {
      return given.characters.filter((id) => typeof id === "string" && id !== "");
    }
  } catch {
    // Unreachable or not JSON.
  }
  return ["luna", "kai", "mei"];
}
