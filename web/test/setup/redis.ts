/** A Redis server that tests can kill and start again on the same port. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";

export class Redis {
  private process: ChildProcess | undefined;

  constructor(readonly port: number) {}

  async start(): Promise<void> {
    const options = ["--bind", "127.0.0.1", "--port", String(this.port), "--save", "", "--appendonly", "no"];
    this.process = spawn("redis-server", options, { stdio: "ignore" });
    while (!(await this.answers())) {
      if (this.process.exitCode !== null) throw new Error("redis-server has stopped");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async kill(): Promise<void> {
    const { process } = this;
    this.process = undefined;
    if (!process || process.exitCode !== null) return;
    process.kill("SIGKILL");
    await once(process, "exit");
  }

  private answers(): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = connect(this.port, "127.0.0.1", () => socket.write("PING\r\n"));
      socket.once("data", (data) => (resolve(data.toString().startsWith("+PONG")), socket.destroy()));
      socket.once("error", () => resolve(false));
    });
  }
}
