// Serves web/dist as `make run` does, with the policy in a header too.
import { readFile } from "node:fs/promises";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";

const DIST = join(import.meta.dirname, "../dist");
const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".json": "application/json",
};

/** The characters that the page offers, unless a test says otherwise. */
const OFFERED = ["luna", "kai", "mei"];

export class PageServer {
  /** Which functions the page is told to ask. */
  api = "";
  characters = OFFERED;

  private constructor(private readonly server: Server) {}

  static async start(): Promise<PageServer> {
    const server = createServer();
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    const page = new PageServer(server);
    server.on("request", async (request, response) => {
      const path = new URL(request.url ?? "/", "http://page").pathname;
      const name = path === "/" ? "/index.html" : path;
      try {
        if (name === "/config.json") {
          const config = JSON.stringify({ characters: page.characters });
          response.writeHead(200, { "content-type": "application/json" }).end(config);
          return;
        }
        const content = await readFile(join(DIST, normalize(name)));
        response.setHeader("content-type", TYPES[extname(name)] ?? "application/octet-stream");
        response.setHeader("cache-control", "no-store");
        response.end(name === "/index.html" ? page.#addressed(content.toString(), response) : content);
      } catch {
        response.writeHead(404).end();
      }
    });
    return page;
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Returns the document with the address of the functions in it, and sends its policy in a header, too. */
  #addressed(html: string, response: ServerResponse): string {
    const addressed = html
      .replace('name="chat-api" content=""', `name="chat-api" content="${this.api}"`)
      .replace("connect-src 'self'", `connect-src 'self' ${this.api}`);
    const [, policy] = /http-equiv="Content-Security-Policy" content="([^"]+)"/.exec(addressed) ?? [];
    response.setHeader("content-security-policy", `${policy}; frame-ancestors 'none'`);
    return addressed;
  }

  /** Offers the characters again that are offered at first. */
  reset(): void {
    this.characters = OFFERED;
  }

  stop(): void {
    this.server.closeAllConnections();
    this.server.close();
  }
}
