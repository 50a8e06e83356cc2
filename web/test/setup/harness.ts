/** What the tests share: users, orders to the servers, and a proxy before them. */

import { randomUUID } from "node:crypto";

import { inject } from "vitest";

import { type ClientOptions, CompanionChat, type TurnEvent } from "../../src/index.js";
import { CuttingProxy } from "./proxy.js";
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

/** A proxy before the functions. See `CuttingProxy`. */
export type Proxy = CuttingProxy;
export const Proxy = {
  start: (allowances: Iterable<number> = []): Promise<CuttingProxy> => CuttingProxy.start(running.url, allowances),
};
