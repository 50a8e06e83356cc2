/** What the tests share: users, orders to the servers, and a proxy that cuts connections. */

import { randomUUID } from "node:crypto";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

import { inject } from "vitest";

import { type ClientOptions, CompanionChat, type TurnEvent } from "../../src/index.js";
import { signedToken } from "./token.js";
import type { Script } from "./upstream.js";

export const running = inject("running");

/** Returns a client of a new user, and the user's id. */
export function newUser(options: Partial<ClientOptions> = {}): CompanionChat {
  return new CompanionChat({ baseUrl: running.url, token: tokenOf(`user-${randomUUID()}`), ...options });
}

/** Returns a token that the functions accept for so many seconds. */
export function tokenOf(user: string, lifetimeSeconds?: number): string {
  return signedToken(running.secret, user, lifetimeSeconds);
}

/** Returns the message that makes the model do this. */
export function script(script: Script): string {
  return JSON.stringify(script);
}

/** A turn that is held before its second piece, until it is released. */
export function heldTurn(say: string[] = ["在看", "呀，和你一起。"], before = 1) {
  const name = randomUUID();
  return {
    message: script({ say, hold: { before, name } }),
    isHeld: () => order("held", name),
    release: () => order("release", name),
  };
}

export async function order(what: "kill" | "start" | "release" | "held" | "requests", name = ""): Promise<unknown> {
  return (await fetch(`${running.control}/${what}/${name}`)).json();
}

export interface Outcome {
  events: TurnEvent[];
  text: string;
  last: TurnEvent | undefined;
  error: unknown;
}

/** Reads all events of a turn, and the error that ends them, if one does. `onText` is called before the next is read. */
export async function outcomeOf(
  turn: AsyncIterable<TurnEvent>,
  onText?: (text: string) => Promise<void>,
): Promise<Outcome> {
  const outcome: Outcome = { events: [], text: "", last: undefined, error: undefined };
  try {
    for await (const event of turn) {
      outcome.events.push(event);
      outcome.last = event;
      if (event.type === "text") {
        outcome.text += event.text;
        await onText?.(event.text);
      }
    }
  } catch (error) {
    outcome.error = error;
  }
  return outcome;
}

/** Reads all events of a turn, which must end with `done`. */
export async function completed(turn: AsyncIterable<TurnEvent>) {
  const outcome = await outcomeOf(turn);
  if (outcome.error) throw outcome.error;
  if (outcome.last?.type !== "done") throw new Error("the turn has no last event");
  return { ...outcome, done: outcome.last };
}

/**
 * A TCP proxy before the functions. `allowances` are the numbers of bytes that it lets back to the client before it cuts
 * a connection, one for each connection; those after them are not cut.
 */
export class Proxy {
  private readonly sockets = new Set<Socket>();
  private readonly server = createServer((client) => this.accept(client));
  url = "";
  /** How many connections were made. */
  connections = 0;
  /** The bytes that came back on the connection that was made last. */
  bytes = 0;

  private constructor(private readonly allowances: Iterator<number>) {}

  static async start(allowances: Iterable<number> = []): Promise<Proxy> {
    const proxy = new Proxy(allowances[Symbol.iterator]());
    await new Promise<void>((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    proxy.url = `http://127.0.0.1:${(proxy.server.address() as AddressInfo).port}`;
    return proxy;
  }

  /** Cuts all connections now. */
  cut(): void {
    for (const socket of this.sockets) socket.destroy();
  }

  async stop(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private accept(client: Socket): void {
    this.connections += 1;
    this.bytes = 0;
    const next = this.allowances.next();
    const allowance = next.done ? Infinity : next.value;
    const service = connect(Number(new URL(running.url).port), "127.0.0.1");
    for (const [socket, other] of [[client, service], [service, client]] as const) {
      this.sockets.add(socket);
      socket.on("error", () => undefined);
      socket.on("close", () => {
        this.sockets.delete(socket);
        other.destroy();
      });
    }
    client.on("data", (data) => service.write(data));
    service.on("data", (data) => {
      const left = allowance - this.bytes;
      this.bytes += data.length;
      if (data.length < left) client.write(data);
      // A cut, not an end: what was allowed arrives first.
      else client.write(data.subarray(0, left), () => client.destroy());
    });
    if (allowance === 0) client.destroy();
  }
}
