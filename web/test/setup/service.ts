/** Starts the real functions for the tests, with a Redis and a model server that the tests control. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";

import type { TestProject } from "vitest/node";

import { freePort } from "./process.js";
import { Redis } from "./redis.js";
import { Upstream } from "./upstream.js";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
/** Of one user. A test that needs more turns in a minute uses another user. */
export const TURNS_PER_MINUTE = 20;
const SECRET = "the secret of the tests of the client, of 32 bytes or more";

export interface Running {
  url: string;
  secret: string;
  /** Where the process that holds Redis and the upstream takes orders from tests. */
  control: string;
}

declare module "vitest" {
  export interface ProvidedContext {
    running: Running;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const upstream = await Upstream.start();
  const redis = await Redis.start();
  const control = createServer((request, response) => {
    const [, order = "", argument = ""] = (request.url ?? "").split("/");
    const orders: Record<string, () => unknown> = {
      kill: () => redis.kill(),
      start: () => redis.start(),
      release: () => upstream.release(argument),
      held: () => upstream.held(argument),
      requests: () => upstream.requests,
    };
    void Promise.resolve(orders[order]?.()).then((value) => response.end(JSON.stringify(value ?? null)));
  });
  await new Promise<void>((resolve) => control.listen(0, "127.0.0.1", resolve));

  const port = await freePort();
  const run = spawn("python3", ["scripts/run.py"], {
    cwd: ROOT,
    env: {
      ...process.env,
      PORT: String(port),
      RUN_FOLDER: ".run/web-test",
      PAGE: "off",
      REDIS_URL: redis.url,
      JWT_SECRET: SECRET,
      LLM_PROVIDER: "openai",
      LLM_BASE_URL: upstream.url,
      LLM_API_KEY: "none",
      LLM_MODEL: "stand-in",
      LLM_MAX_RETRIES: "0",
      LIMIT_TURNS_PER_MINUTE: String(TURNS_PER_MINUTE),
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  // For a run of the tests that is ended before it can clean up.
  process.once("exit", () => {
    run.kill("SIGTERM");
    void redis.kill();
  });
  const stop = async (): Promise<void> => {
    if (run.exitCode === null) {
      run.kill("SIGTERM");
      await once(run, "exit");
    }
    control.closeAllConnections();
    control.close();
    await redis.kill();
    await upstream.stop();
  };
  let said = "";
  await new Promise<void>((resolve, reject) => {
    run.stdout.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      if (said.includes("Serving;")) resolve();
    });
    run.once("exit", () => reject(new Error(`the functions did not start:\n${said}`)));
  }).catch(async (error: unknown) => {
    await stop();
    throw error;
  });
  const control_url = `http://127.0.0.1:${(control.address() as AddressInfo).port}`;
  project.provide("running", { url: `http://127.0.0.1:${port}`, secret: SECRET, control: control_url });
  return stop;
}
