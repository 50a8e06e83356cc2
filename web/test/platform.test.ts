/** The types and the code are what the platforms and docs/openapi.yaml have. */

import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { afterEach, expect, test, vi } from "vitest";

import { randomKey } from "../src/key.js";

const WEB = fileURLToPath(new URL("..", import.meta.url));

afterEach(() => void vi.unstubAllGlobals());

test("src/api.ts is what openapi-typescript makes of docs/openapi.yaml; else run `npm run api`", () => {
  const made = execFileSync("node_modules/.bin/openapi-typescript", ["../docs/openapi.yaml"], { cwd: WEB });
  expect(readFileSync(`${WEB}/src/api.ts`, "utf8")).toBe(made.toString());
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
