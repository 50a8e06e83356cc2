// Builds the page into web/dist.
//
// CHAT_API names the address of the functions. Without it the page asks the origin that it was loaded from, as behind a
// distribution that serves both, and whoever serves the page may name another address: see scripts/page.py.
// CHAT_CHARACTERS names the characters to offer, separated by commas.
import { defineConfig, type Plugin } from "vite";

const MAX_ID_BYTES = 128;
const characters = charactersOf(process.env["CHAT_CHARACTERS"] ?? "luna,kai,mei");

export default defineConfig({
  root: import.meta.dirname,
  base: "./",
  publicDir: "public",
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  plugins: [page(addressOf(process.env["CHAT_API"] ?? ""))],
  build: {
    outDir: "../dist",
    emptyOutDir: true,
    target: "es2022",
    // The policy forbids inline scripts and styles, and `data:` other than for images.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { port: 9201, strictPort: true },
});

/** Returns the ids in a list. White space around an id, and a comma too many, are slips of who wrote it. */
function charactersOf(list: string): string[] {
  const ids = list
    .split(",")
    .map((id) => id.trim())
    .filter(Boolean);
  const tooLong = ids.find((id) => Buffer.byteLength(id) > MAX_ID_BYTES);
  if (tooLong) throw refusal(`CHAT_CHARACTERS: an id has at most ${MAX_ID_BYTES} bytes, and this one has more: ${tooLong}`);
  return ids;
}

/** Returns the address of the functions, or null if it is empty. */
function addressOf(text: string): URL | null {
  if (!text.trim()) return null;
  const url = URL.canParse(text) ? new URL(text) : null;
  // Anything else is an address to which the page could not add a path, or that no browser lets it ask.
  const isBase = url && ["http:", "https:"].includes(url.protocol) && !url.search && !url.hash && !url.username;
  if (!isBase) throw refusal(`CHAT_API must be empty or an address such as https://api.example.com, not: ${text}`);
  return url;
}

/** Returns an error that Vite prints as its message alone: where in this file it was thrown helps nobody. */
function refusal(message: string): Error {
  const error = new Error(message);
  error.stack = message;
  return error;
}

/** Writes config.json, and the address of the functions into the page and its policy. */
function page(api: URL | null): Plugin {
  const config = JSON.stringify({ characters }, null, 2);
  let building = false;
  return {
    name: "page",
    configResolved: (resolved) => {
      building = resolved.command === "build";
    },
    // The development server adds scripts and styles inline, and so goes without the policy.
    transformIndexHtml: (html) => {
      const told = api ? html.replace('name="chat-api" content=""', `name="chat-api" content="${api.href}"`) : html;
      if (!building) return told.replace(/<meta http-equiv="Content-Security-Policy"[^>]*>/, "");
      return api ? told.replace("connect-src 'self'", `connect-src 'self' ${api.origin}`) : told;
    },
    generateBundle() {
      this.emitFile({ type: "asset", fileName: "config.json", source: `${config}\n` });
    },
    configureServer: (server) => {
      server.middlewares.use("/config.json", (_request, response) => {
        response.setHeader("content-type", "application/json");
        response.end(config);
      });
    },
  };
}
