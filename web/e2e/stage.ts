// Everything that a test of the page needs: a browser, the page, real functions, a real Redis, and a model on strings.
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeEach, expect } from "vitest";
import { CompanionChat } from "../src/client.js";
import { Functions } from "./functions.ts";
import { PageServer } from "./page.ts";
import { Redis } from "../test/setup/redis.ts";
import { signedToken } from "../test/setup/token.ts";
import { type Reply, Upstream } from "./upstream.ts";

const SECRET = "a secret of the browser tests, which guards nothing";
const CHROMIUM =
  process.env["CHROMIUM"] ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find(existsSync) ?? "chromium";
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/**
 * Starts the stage for the tests of a file. No page may ask anything of others, break the policy, fail with an error, or
 * put a token into an address that a server sees.
 */
export async function stageOfFile(): Promise<Stage> {
  const stage = await Stage.start();
  beforeEach(() => stage.reset());
  afterEach(() => expect(stage.complaints).toEqual([]));
  afterAll(() => stage.stop());
  return stage;
}

export class Stage {
  readonly #contexts: BrowserContext[] = [];
  /** What a page should never do: what it asked of others, and what it complained of. */
  readonly complaints: string[] = [];

  private constructor(
    readonly redis: Redis,
    readonly upstream: Upstream,
    readonly functions: Functions,
    readonly server: PageServer,
    readonly browser: Browser,
  ) {}

  static async start(): Promise<Stage> {
    const [redis, upstream, server] = await Promise.all([Redis.start(), Upstream.start(), PageServer.start()]);
    const settings = {
      REDIS_URL: redis.url,
      JWT_SECRET: SECRET,
      LLM_PROVIDER: "openai",
      LLM_BASE_URL: upstream.url,
      LLM_API_KEY: "none",
      LLM_MODEL: "m",
      LLM_MAX_RETRIES: "0",
    };
    const functions = await Functions.start(settings, server.origin);
    server.api = functions.url;
    const browser = await chromium.launch({ executablePath: CHROMIUM, headless: true, args: FLAGS });
    return new Stage(redis, upstream, functions, server, browser);
  }

  /** Opens the page as a user, in a browser of its own. */
  async open(options: BrowserContextOptions & { user?: string; token?: string; place?: string } = {}): Promise<Visit> {
    const { user = `user-${randomUUID()}`, token = tokenOf(user), place = "", ...rest } = options;
    const context = await this.browser.newContext({ locale: "en-GB", viewport: { width: 1180, height: 800 }, ...rest });
    this.#contexts.push(context);
    const visit = new Visit(this, context, await context.newPage(), token);
    this.#watch(visit.page);
    await visit.page.goto(`${this.server.origin}/#token=${token}`);
    if (place) await visit.page.goto(`${this.server.origin}/#/${place}`);
    return visit;
  }

  /** Opens a second tab in the browser of a user, as that user or as another. */
  async tab(visit: Visit, user?: string): Promise<Visit> {
    const token = user ? tokenOf(user) : visit.token;
    const page = await visit.context.newPage();
    this.#watch(page);
    await page.goto(`${this.server.origin}/#token=${token}`);
    return new Visit(this, visit.context, page, token);
  }

  /** Returns a client of a user, for what a test needs to be there before the page is opened. */
  client(user: string): CompanionChat {
    return new CompanionChat({ baseUrl: this.functions.url, token: tokenOf(user) });
  }

  /** Stores a character as a card with these fields. */
  async card(id: string, fields: object): Promise<void> {
    const card = { spec: "chara_card_v2", spec_version: "2.0", data: { description: "A lamp keeper.", ...fields } };
    await this.redis.set(`character:${id}`, JSON.stringify(card));
  }

  /** Closes all pages, breaks replies that still run, and undoes what a test has changed for the others. */
  async reset(): Promise<void> {
    await Promise.all(this.#contexts.splice(0).map((context) => context.close()));
    this.upstream.repeat();
    for (const reply of this.upstream.replies.splice(0)) reply.break();
    this.functions.restore();
    this.server.reset();
    this.functions.asked.length = 0;
    this.complaints.length = 0;
  }

  async stop(): Promise<void> {
    await this.browser.close();
    await this.functions.stop();
    this.server.stop();
    this.upstream.stop();
    await this.redis.kill();
  }

  #watch(page: Page): void {
    const known = [this.server.origin, this.functions.url];
    page.on("pageerror", (error) => this.complaints.push(`error: ${error.message}`));
    page.on("console", (message) => {
      if (/Content.Security.Policy|Trusted/i.test(message.text())) this.complaints.push(message.text());
    });
    page.on("request", (request) => {
      const url = request.url();
      if (!known.some((one) => url.startsWith(one)) && !url.startsWith("data:")) this.complaints.push(`asked ${url}`);
      if (url.includes("token=") && !url.includes("#token=")) this.complaints.push(`a token in ${url}`);
    });
  }
}

/** A user with the page open, and what the user sees and does. */
export class Visit {
  constructor(
    readonly stage: Stage,
    readonly context: BrowserContext,
    readonly page: Page,
    readonly token: string,
  ) {}

  get box() {
    return this.page.locator("#message");
  }

  /** The texts of all messages, oldest first. */
  texts(): Promise<string[]> {
    return this.page.locator(".messages .message .body").evaluateAll((all) => all.map((one) => one.textContent ?? ""));
  }

  /** The text of the newest reply. */
  async reply(): Promise<string> {
    return (await this.page.locator(".messages .message.reply .body").last().textContent()) ?? "";
  }

  /** Writes a message and sends it by Enter, when the conversation is there, as a user would. */
  async send(text: string): Promise<void> {
    await this.page.waitForSelector(".greeting, .message, .line.bad");
    await this.box.fill(text);
    await this.box.press("Enter");
  }

  /** Sends a message, and waits until it has been repeated. */
  async talk(text: string): Promise<void> {
    await this.send(text);
    await this.sees(`你说：${text}`);
  }

  /** Sends a message, and waits until the page shows the beginning of the reply. The test goes on with it. */
  async beginReply(message: string, beginning: string): Promise<Reply> {
    const next = this.stage.upstream.hold();
    await this.send(message);
    const reply = await next();
    reply.say(beginning);
    await this.seesSoFar(beginning);
    return reply;
  }

  /** Waits until no reply is written, and the newest is this one. */
  async sees(reply: string): Promise<void> {
    await this.page.waitForFunction(
      (expected) => {
        const all = document.querySelectorAll(".messages .message.reply");
        const last = all[all.length - 1];
        return last?.getAttribute("aria-busy") === "false" && last.querySelector(".body")?.textContent === expected;
      },
      reply,
      { timeout: 15_000 },
    );
  }

  /** Waits until the newest reply has this text so far. */
  async seesSoFar(reply: string): Promise<void> {
    await this.page.waitForFunction(
      (expected) => {
        const all = document.querySelectorAll(".messages .message.reply .body");
        return all[all.length - 1]?.textContent === expected;
      },
      reply,
      { timeout: 15_000 },
    );
  }

  /** Waits until the page says this to the eye. */
  async told(text: string, timeout = 15_000): Promise<void> {
    await this.page.locator("main").getByText(text).first().waitFor({ timeout });
  }

  /** Waits until all that has happened so far is on the screen. */
  async painted(): Promise<void> {
    await this.page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  }

  /** What a screen reader was told last. */
  async said(): Promise<string> {
    return (await this.page.locator('[role="status"]').textContent()) ?? "";
  }

  button(name: string) {
    return this.page.getByRole("button", { name, exact: true });
  }
}

/** Returns a token that the functions accept for so many seconds. */
export function tokenOf(user: string, lifetimeSeconds?: number): string {
  return signedToken(SECRET, user, lifetimeSeconds);
}
