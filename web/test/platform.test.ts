/** The client runs on the platforms that the README names, and its types are those of docs/openapi.yaml. */

import { execFile, execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";

import { randomKey } from "../src/key.js";
import { completed, heldTurn, newUser, outcomeOf, Proxy, script, tokenOf } from "./setup/harness.js";
import { start, startStub, text } from "./setup/stub.js";

const WEB = fileURLToPath(new URL("..", import.meta.url));

afterEach(() => void vi.unstubAllGlobals());

test("src/api.ts is what openapi-typescript makes of docs/openapi.yaml; else run `npm run api`", () => {
  const made = execFileSync("node_modules/.bin/openapi-typescript", ["../docs/openapi.yaml"], { cwd: WEB });
  expect(readFileSync(`${WEB}/src/api.ts`, "utf8")).toBe(made.toString());
});

test("the README names the Deno that scripts/setup.sh installs", () => {
  const [, version] = /^DENO_VERSION=(\d+\.\d+)\./m.exec(readFileSync(`${WEB}/../scripts/setup.sh`, "utf8")) ?? [];
  expect(readFileSync(`${WEB}/README.md`, "utf8")).toContain(`| Deno | ${version}: `);
});

test("the library imports nothing but its one dependency", () => {
  const imported = readdirSync(`${WEB}/src`)
    .flatMap((name) => [...readFileSync(`${WEB}/src/${name}`, "utf8").matchAll(/(?:from|import) "([^.][^"]*)"/g)])
    .map(([, name]) => name);
  expect(new Set(imported)).toEqual(new Set(["eventsource-parser"]));
});

test("the lock file names no registry", () => {
  expect(readFileSync(`${WEB}/package-lock.json`, "utf8")).not.toContain('"resolved"');
});

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

test.each([
  ["https", crypto],
  ["http, without randomUUID", { getRandomValues: crypto.getRandomValues.bind(crypto) }],
  ["a platform without crypto", undefined],
])("a key is a random UUID: %s", (_, platform) => {
  vi.stubGlobal("crypto", platform);
  const keys = Array.from({ length: 100 }, randomKey);
  for (const key of keys) expect(key).toMatch(UUID);
  expect(new Set(keys).size).toBe(100);
});

/** How each platform runs a file. */
const PLATFORMS = {
  // The one that runs this test, whichever version that is.
  node: [process.execPath],
  // `make web-test` has installed it. It may use the network, and nothing else of this machine.
  deno: [`${WEB}/../.tools/deno/node_modules/.bin/deno`, "run", "--quiet", "--no-prompt", "--allow-net=127.0.0.1"],
};

describe("as it is packed, the client runs over connections that are cut", () => {
  beforeAll(() => void execFileSync("npm", ["run", "--silent", "build"], { cwd: WEB }));

  test.each(Object.entries(PLATFORMS))("in %s", async (_, [command = "", ...options]) => {
    expect(existsSync(command), `${command} is there; scripts/setup.sh web installs it`).toBe(true);
    const proxy = await Proxy.start([600]);
    const held = heldTurn();
    const message = script({ say: ["在看", "呀，😀", "ok."] });
    const file = `${WEB}/test/platforms/conversation.mjs`;
    const token = tokenOf(`user-of-${command}-${Date.now()}`);
    const parameters = [...options, file, proxy.url, token, message, held.message];
    const { stdout } = await promisify(execFile)(command, parameters, { cwd: WEB });
    await proxy.stop();
    expect(JSON.parse(stdout)).toEqual({
      text: "在看呀，😀ok.",
      types: ["connection", "done", "start", "text"],
      code: "aborted",
      stopped: true,
      stored: "在看呀，😀ok.",
      exported: expect.arrayContaining(["session", "message", "turn", "end"]) as unknown,
    });
  });
});

/**
 * A fetch with what that of Expo (SDK 52) has of a response and of its body, and no more. It hears its signal only until
 * the response begins, knows no `cache`, and fails with plain errors.
 */
const expoFetch = (async (url: string, { method, headers, body, signal }: RequestInit = {}) => {
  if (signal?.aborted) throw new Error("The operation was aborted.");
  const request = new AbortController();
  const cancel = (): void => request.abort();
  const plainly = <T>(step: Promise<T>): Promise<T> => step.catch((error) => Promise.reject(new Error(String(error))));
  signal?.addEventListener("abort", cancel);
  try {
    const init = { ...(method && { method }), ...(headers && { headers }), ...(body && { body }), signal: request.signal };
    const response = await plainly(fetch(url, init));
    const { ok, status, headers: received, body: stream } = response;
    const readable = {
      getReader: () => {
        const reader = stream?.getReader();
        return { read: () => plainly(reader?.read() ?? Promise.reject()), cancel: async () => cancel() };
      },
      cancel: async () => cancel(),
    };
    return { ok, status, headers: received, body: readable, text: () => plainly(response.text()) };
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}) as unknown as typeof fetch;

describe("with what expo/fetch has, in a React Native that has no crypto", () => {
  test("a reply whose connection is cut arrives whole, and everything else works", async () => {
    vi.stubGlobal("crypto", undefined);
    const proxy = await Proxy.start([700]);
    const chat = newUser({ baseUrl: proxy.url, fetch: expoFetch });
    const { text: heard, events } = await completed(chat.send("luna", script({ say: ["在看", "呀，😀", "ok."] })));
    expect(heard).toBe("在看呀，😀ok.");
    expect(events.map(({ type }) => type)).toContain("connection");
    expect((await chat.history("luna")).messages).toHaveLength(2);
    const exported = [];
    for await (const item of chat.exportData()) exported.push(item.type);
    expect(exported.at(-1)).toBe("end");
    expect(await chat.stop("luna")).toBe(false);
    await proxy.stop();
  });

  test("an aborted signal closes the connection, although that fetch no longer hears it", async () => {
    let close: (() => void) | undefined;
    const closed = new Promise<void>((resolve) => (close = resolve));
    const stub = await startStub((request, response) => {
      request.socket.on("close", () => close?.());
      response.writeHead(200, { "content-type": "text/event-stream" }).write(start() + text(3, "你"));
    });
    const controller = new AbortController();
    const chat = newUser({ baseUrl: stub.url, fetch: expoFetch });
    const turn = chat.send("luna", "你好", { signal: controller.signal });
    const { error } = await outcomeOf(turn, async () => controller.abort());
    expect(error).toMatchObject({ code: "aborted" });
    await closed;
    await stub.stop();
  });
});
