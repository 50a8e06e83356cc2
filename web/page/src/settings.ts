/** What the page is told by `config.json` beside it. */
export interface Settings {
  /** The address of the functions; empty for the page's own origin. */
  api: string;
  /** The characters to offer besides those of the user's sessions. */
  characters: string[];
}

/** Reads `config.json`. A page without one offers the samples, from its own origin. */
export async function readSettings(): Promise<Settings> {
  const settings: Settings = { api: location.origin, characters: ["luna", "kai", "mei"] };
  try {
    const response = await fetch("./config.json");
    const given: unknown = response.ok ? await response.json() : null;
    if (typeof given !== "object" || given === null) return settings;
    if ("api" in given && typeof given.api === "string" && given.api) settings.api = given.api.replace(/\/+$/, "");
    if ("characters" in given && Array.isArray(given.characters)) {
      settings.characters = given.characters.filter((id) => typeof id === "string" && id !== "");
    }
  } catch {
    // Unreachable or not JSON: the defaults hold, and the first request says what is wrong.
  }
  return settings;
}
