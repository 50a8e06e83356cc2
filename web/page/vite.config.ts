// Builds the page into web/dist.
//
// CHAT_API names the address of the functions. Without it the page asks the origin that it was loaded from, as behind a
// distribution that serves both, and whoever serves the page may name another address: see scripts/page.py.
import { defineConfig, type Plugin } from "vite";

const characters = (process.env["CHAT_CHARACTERS"] ?? "luna,kai,mei").split(",").filter(Boolean);

export default defineConfig({
  root: import.meta.dirname,
  base: "./",
  publicDir: "public",
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  plugins: [page(process.env["CHAT_API"] ?? "")],
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

/** Writes config.json, and the address of the functions into the page and its policy. */
function page(address: string): Plugin {
  const config = JSON.stringify({ characters }, null, 2);
  const api = address ? new URL(address) : null;
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
