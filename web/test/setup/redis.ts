// A real redis-server that a test can kill and start again on the same port.
import { connect } from "node:net";
import { freePort, Process, until } from "./process.js";

export class Redis {
  readonly url: string;
  #process: Process | null = null;

  private constructor(private readonly port: number) {
    this.url = `redis://127.0.0.1:${port}/0`;
  }

  static async start(): Promise<Redis> {
    const redis = new Redis(await freePort());
    await redis.start();
    return redis;
  }

  async start(): Promise<void> {
    const parameters = ["--bind", "127.0.0.1", "--port", String(this.port), "--save", "", "--appendonly", "no"];
    this.#process = new Process("redis-server", parameters, {});
    await this.#process.upTo(until("Redis answers", () => answers(this.port)));
  }

  /** Stores a text under a key. */
  async set(key: string, text: string): Promise<void> {
    const answer = await new Promise<string>((resolve, reject) => {
      const parts = ["SET", key, text].map((part) => `$${Buffer.byteLength(part)}\r\n${part}\r\n`);
      const socket = connect(this.port, "127.0.0.1", () => socket.write(`*3\r\n${parts.join("")}`));
      socket.once("data", (data) => {
        resolve(data.toString());
        socket.destroy();
      });
      socket.once("error", reject);
    });
    if (answer !== "+OK\r\n") throw new Error(`Redis answers ${answer}`);
  }

  /** Ends it at once, and with it all that was stored. */
  async kill(): Promise<void> {
    await this.#process?.kill();
    this.#process = null;
  }
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => socket.write("PING\r\n"));
    socket.once("data", (data) => {
      resolve(data.toString().startsWith("+PONG"));
      socket.destroy();
    });
    socket.once("error", () => resolve(false));
  });
}
