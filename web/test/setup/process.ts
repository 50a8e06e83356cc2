// Processes that end with the test.
import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";

/** A process of a server. */
export class Process {
  readonly #child: ChildProcess;
  /** Resolves to how it ended, or why it did not start. */
  readonly #ended: Promise<string>;

  constructor(command: string, parameters: string[], env: Record<string, string>) {
    this.#child = spawn(command, parameters, {
      env: { PATH: process.env["PATH"] ?? "", ...env },
      stdio: "ignore",
    });
    this.#ended = new Promise((resolve) => {
      this.#child.once("exit", (code, signal) => resolve(`${command} ended with ${signal ?? `status ${code}`}`));
      this.#child.once("error", (error) => resolve(error.message));
    });
  }

  /** Waits for something that the process does. Throws as soon as the process has ended without it. */
  async upTo<T>(step: Promise<T>): Promise<T> {
    const ended = this.#ended.then((how) => Promise.reject(new Error(how)));
    return Promise.race([step, ended]);
  }

  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }
}

/** Returns a port that nothing listens on. */
export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}

/** Waits until something is true. */
export async function until(what: string, isTrue: () => unknown, withinMs = 15_000): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (!(await isTrue())) {
    if (Date.now() > deadline) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
