/** The connection breaks, wherever it can. */

import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { completed, heldTurn, newUser, order, outcomeOf, Proxy, script } from "./setup/harness.js";

const PIECES = ["在看", "呀，😀", "ok."];
const MESSAGE = script({ say: PIECES });

const proxies: Proxy[] = [];

async function proxyThatCuts(...allowances: number[]): Promise<Proxy> {
  const proxy = await Proxy.start(allowances);
  proxies.push(proxy);
  return proxy;
}

// The pauses between attempts are tested on their own.
beforeEach(() => void vi.spyOn(Math, "random").mockReturnValue(0));
afterEach(async () => {
  vi.restoreAllMocks();
  await Promise.all(proxies.splice(0).map((proxy) => proxy.stop()));
});

/** Sends the message through a proxy, and checks that the outcome is that of an uncut run. */
async function sendThrough(proxy: Proxy) {
  const chat = newUser({ baseUrl: proxy.url });
  const { events, text, done } = await completed(chat.send("luna", MESSAGE));
  expect(text).toBe(PIECES.join(""));
  expect(done).toMatchObject({ finishReason: "stop", saved: true });
  const kinds = events.map(({ type }) => type).filter((type) => type !== "connection");
  expect(kinds.filter((type) => type === "start")).toHaveLength(1);
  expect(kinds[0]).toBe("start");
  expect(kinds.at(-1)).toBe("done");
  const connection = events.flatMap((event) => (event.type === "connection" ? [event.state] : []));
  expect(connection).toEqual(connection.map((_, index) => (index % 2 === 0 ? "lost" : "back")));
  return { chat, done, connection };
}

test("a reply that is cut after any number of bytes arrives whole, and is one turn", { timeout: 300_000 }, async () => {
  const uncut = await proxyThatCuts();
  await sendThrough(uncut);
  const total = uncut.bytes;
  expect(total).toBeGreaterThan(500);

  let lost = 0;
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < total) {
      const cutAt = next++;
      const proxy = await Proxy.start([cutAt]);
      try {
        const { chat, done, connection } = await sendThrough(proxy);
        lost += connection.length / 2;
        const { messages } = await chat.history("luna");
        expect(messages.map(({ msg_id }) => msg_id)).toEqual([done.userMsgId, done.msgId]);
      } catch (error) {
        throw new Error(`cut after ${cutAt} bytes of ${total}: ${String(error)}`, { cause: error });
      } finally {
        await proxy.stop();
      }
    }
  };
  await Promise.all([worker(), worker()]);
  // Only a cut after the last event is none.
  expect(lost).toBeGreaterThan(total * 0.9);
});

test("a reply that is cut again and again arrives whole", async () => {
  const uncut = await proxyThatCuts();
  await sendThrough(uncut);
  // Enough for the head and a piece or two, so that each connection gets the reply on.
  for (const allowance of [420, 470, 520]) {
    const proxy = await proxyThatCuts(...Array<number>(20).fill(allowance));
    const { connection } = await sendThrough(proxy);
    expect(connection.length).toBeGreaterThan(2);
  }
});

test("what is said while the connection is lost comes afterwards, and nothing twice", async () => {
  const proxy = await proxyThatCuts();
  const chat = newUser({ baseUrl: proxy.url });
  const { message, isHeld, release } = heldTurn(["在看", "呀，", "和你一起。"]);
  const turn = completed(chat.send("luna", message));
  await isHeld();
  // The first piece is on its way to the client, which may or may not have it.
  proxy.cut();
  await release();
  expect((await turn).text).toBe("在看呀，和你一起。");
});

test("a message waits for a service that is not there yet", async () => {
  const proxy = await proxyThatCuts(0, 0, 0);
  const { connection } = await sendThrough(proxy);
  expect(connection).toEqual(["lost", "back"]);
  expect(proxy.connections).toBe(4);
});

test("a turn is looked for only as long as it lives", async () => {
  const proxy = await proxyThatCuts();
  const chat = newUser({ baseUrl: proxy.url, turnLifetimeMs: 300 });
  const { message, release } = heldTurn();
  vi.mocked(Math.random).mockReturnValue(0.5);
  const { error, events } = await outcomeOf(chat.send("luna", message), () => proxy.stop());
  await release();
  expect(error).toMatchObject({ code: "connection_lost" });
  const start = events[0];
  expect(start?.type === "start" && start.turnId).toBe((error as { turnId?: string }).turnId);
  expect(events.at(-1)).toEqual({ type: "connection", state: "lost" });
});

test("a signal ends the search at once", async () => {
  const proxy = await proxyThatCuts();
  await proxy.stop();
  vi.mocked(Math.random).mockReturnValue(0.9);
  const controller = new AbortController();
  const chat = newUser({ baseUrl: proxy.url });
  const began = Date.now();
  for await (const event of abortsWhenLost()) expect(event).toEqual({ type: "connection", state: "lost" });
  expect(Date.now() - began).toBeLessThan(1_000);

  async function* abortsWhenLost() {
    try {
      for await (const event of chat.send("luna", "你好", { signal: controller.signal })) {
        setTimeout(() => controller.abort(), 20);
        yield event;
      }
    } catch (error) {
      expect(error).toMatchObject({ code: "aborted" });
    }
  }
});

test("a signal that is aborted before sends nothing", async () => {
  const before = Number(await order("requests"));
  const { error, events } = await outcomeOf(newUser().send("luna", "你好", { signal: AbortSignal.abort() }));
  expect(error).toMatchObject({ code: "aborted" });
  expect(events).toEqual([]);
  expect(Number(await order("requests"))).toBe(before);
});

test("other requests fail at once when the service is not there", async () => {
  const proxy = await proxyThatCuts();
  await proxy.stop();
  await expect(newUser({ baseUrl: proxy.url }).history("luna")).rejects.toMatchObject({ code: "unreachable" });
});
