/** The model fails, the service does what it does only when it is broken, and Redis is killed. */

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

import { ChatError, type ClientOptions, CompanionChat } from "../src/index.js";
import { completed, heldTurn, newUser, order, outcomeOf, Proxy, script } from "./setup/harness.js";
import { type Answer, breaks, done, failed, problem, start, startStub, type Stub, stream, text, TURN } from "./setup/stub.js";

describe("a model", () => {
  test("that cannot be reached is an error, and nothing is stored", async () => {
    const chat = newUser();
    const { error, events } = await outcomeOf(chat.send("luna", script({ status: 500 })));
    expect(error).toBeInstanceOf(ChatError);
    expect(error).toMatchObject({ code: "upstream_unavailable", saved: false });
    expect((error as ChatError).turnId).toBe(events[0]?.type === "start" && events[0].turnId);
    expect((await chat.history("luna")).messages).toEqual([]);
  });

  test("that refuses the request is an error", async () => {
    const { error } = await outcomeOf(newUser().send("luna", script({ status: 400 })));
    expect(error).toMatchObject({ code: "upstream_rejected", saved: false });
  });

  test("that breaks off is an error, and what came is stored", async () => {
    const chat = newUser();
    const { error, text } = await outcomeOf(chat.send("luna", script({ say: ["在看"], breaks: true })));
    expect(error).toMatchObject({ code: "upstream_interrupted", saved: true });
    expect(text).toBe("在看");
    expect((await chat.history("luna")).messages.at(-1)?.content).toBe("在看");
  });
});

describe("a service", () => {
  let stub: Stub;
  beforeEach(() => void vi.spyOn(Math, "random").mockReturnValue(0));
  afterEach(async () => {
    vi.restoreAllMocks();
    vi.useRealTimers();
    await stub.stop();
  });

  function client(options: Partial<ClientOptions> = {}): CompanionChat {
    return new CompanionChat({ baseUrl: stub.url, token: "token", ...options });
  }

  async function send(...answers: Answer[]) {
    stub = await startStub(...answers);
    return outcomeOf(client().send("luna", "你好"));
  }

  test("that is overloaded is asked again with the same key", async () => {
    const { text: all, error } = await send(
      problem(503, "memory_unavailable"),
      problem(502, ""),
      stream([start(), text(6, "你好"), done()]),
    );
    expect(error).toBeUndefined();
    expect(all).toBe("你好");
    expect(stub.requests.map(({ method }) => method)).toEqual(["POST", "POST", "POST"]);
    expect(new Set(stub.requests.map(({ key }) => key)).size).toBe(1);
    expect(stub.requests[0]?.key).toMatch(/^[0-9a-f-]{36}$/);
  });

  test("that stays overloaded is an error after some attempts", async () => {
    const { error, events } = await send(problem(503, "memory_unavailable"));
    expect(error).toMatchObject({ code: "memory_unavailable", status: 503 });
    expect(events).toEqual([]);
    expect(stub.requests).toHaveLength(5);
  });

  test("that asks for a pause gets it", async () => {
    const began = Date.now();
    await send(problem(503, "memory_unavailable", { "retry-after": "1" }), stream([start(), done()]));
    expect(Date.now() - began).toBeGreaterThanOrEqual(1_000);
  });

  test("that asks for a long pause leaves that to the caller", async () => {
    const { error } = await send(problem(503, "memory_unavailable", { "retry-after": "60" }));
    expect(error).toMatchObject({ code: "memory_unavailable", retryAfterSeconds: 60 });
    expect(stub.requests).toHaveLength(1);
  });

  test.each([
    [429, "too_many_requests"],
    [500, "internal"],
  ])("that answers %d is not asked again", async (status, code) => {
    const { error } = await send(problem(status, code, { "retry-after": "7" }));
    expect(error).toMatchObject({ code, status, retryAfterSeconds: 7 });
    expect(stub.requests).toHaveLength(1);
  });

  test("whose memory is down is asked for a turn until it is back", async () => {
    const { text: all, events } = await send(
      stream([start(), text(6, "你好")], "break"),
      ...Array<Answer>(8).fill(problem(503, "memory_unavailable")),
      stream([text(9, "呀"), done()]),
    );
    expect(all).toBe("你好呀");
    expect(events.flatMap((event) => (event.type === "connection" ? [event.state] : []))).toEqual(["lost", "back"]);
    expect(stub.requests.at(-1)?.url).toBe(`/api/v1/chat/stream?character_id=luna&turn_id=${TURN}&after=6`);
  });

  test("that lost the process of a turn is an error", async () => {
    const { error, text: all } = await send(
      stream([start(), text(6, "你好")], "break"),
      stream([text(9, "呀"), failed("turn_lost")]),
    );
    expect(all).toBe("你好呀");
    expect(error).toMatchObject({ code: "turn_lost", saved: false, turnId: TURN });
  });

  test("that forgot a turn before any text came begins it again by its key", async () => {
    const other = "01936d2a-7c3e-7b51-9f04-5a1c8e2d6b99";
    const { events, error } = await send(
      stream([start()], "break"),
      problem(404, "turn_not_found"),
      stream([start({ turn_id: other }), text(6, "你好"), done({ turn_id: other })]),
    );
    expect(error).toBeUndefined();
    expect(events.flatMap((event) => (event.type === "start" ? [event.turnId] : []))).toEqual([TURN, other]);
    expect(stub.requests.map(({ method }) => method)).toEqual(["POST", "GET", "POST"]);
    expect(stub.requests[2]?.key).toBe(stub.requests[0]?.key);
  });

  test("that forgot a turn after text came is an error", async () => {
    const { error, text: all } = await send(
      stream([start(), text(6, "你好")], "break"),
      problem(404, "turn_not_found"),
    );
    expect(all).toBe("你好");
    expect(error).toMatchObject({ code: "turn_not_found", turnId: TURN });
    expect(stub.requests).toHaveLength(2);
  });

  test("that sends text again is not heard twice", async () => {
    const { text: all } = await send(
      stream([start(), text(6, "你好")], "break"),
      stream([start(), text(6, "你好"), text(9, "呀"), done()]),
    );
    expect(all).toBe("你好呀");
  });

  test("that sends events of a later version is understood", async () => {
    const { text: all, error } = await send(
      stream([": ping\n\n", "id: 0\nevent: news\ndata: {}\n\n", start({ more: 1 }), text(6, "你好"), done({ more: 1 })]),
    );
    expect(error).toBeUndefined();
    expect(all).toBe("你好");
  });

  test.each([
    { what: "more and more slowly", first: 7, then: 0, pauses: [250, 500, 1000, 2000, 4000, 5000, 5000] },
    { what: "as at first after some text came", first: 2, then: 1, pauses: [250, 500, 250, 500] },
  ])("that breaks the connection is asked again $what", async ({ first, then, pauses }) => {
    vi.mocked(Math.random).mockReturnValue(1);
    const waited: number[] = [];
    const wait = setTimeout;
    vi.spyOn(globalThis, "setTimeout").mockImplementation(((run: () => void, ms: number) => {
      // Others, such as the limit of silence, are longer, or are those of `fetch`.
      const isPause = [250, 500, 1000, 2000, 4000, 5000].includes(ms);
      if (isPause) waited.push(ms);
      return wait(run, isPause ? 0 : ms);
    }) as typeof setTimeout);
    const cuts = Array<Answer>(then).fill(stream([start(), text(6, "你好")], "break"));
    const again = Array<Answer>(then).fill(breaks);
    await send(...Array<Answer>(first).fill(breaks), ...cuts, ...again, stream([start(), done()]));
    expect(waited).toEqual(pauses);
  });

  test.each([
    { when: "before the response", head: false },
    { when: "while the reply comes", head: true },
  ])("loses its connection when the signal is aborted $when", async ({ head }) => {
    let closed: (() => void) | undefined;
    const whenClosed = new Promise<void>((resolve) => (closed = resolve));
    stub = await startStub((request, response) => {
      request.socket.on("close", () => closed?.());
      if (head) response.writeHead(200, { "content-type": "text/event-stream" }).write(start());
      else controller.abort();
    });
    const controller = new AbortController();
    const turn = client().send("luna", "你好", {
      signal: controller.signal,
    });
    await expect(async () => {
      for await (const event of turn) if (event.type === "start") setTimeout(() => controller.abort(), 10);
    }).rejects.toMatchObject({ code: "aborted" });
    await whenClosed;
  });

  test("is not heard after the signal was aborted, even if more came before", async () => {
    stub = await startStub(stream([start(), text(3, "你"), text(6, "好"), done()]));
    const controller = new AbortController();
    const turn = client().send("luna", "你好", {
      signal: controller.signal,
    });
    const { text: heard, error } = await outcomeOf(turn, async () => controller.abort());
    expect(heard).toBe("你");
    expect(error).toMatchObject({ code: "aborted" });
  });

  test("is not silent while the caller takes long over an event", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    stub = await startStub(stream([start(), text(3, "你"), text(6, "好"), done()]));
    const turn = client().send("luna", "你好");
    const { text: heard } = await outcomeOf(turn, async () => void (await vi.advanceTimersByTimeAsync(600_000)));
    expect(heard).toBe("你好");
    expect(stub.requests).toHaveLength(1);
  });

  test("is waited for no longer when the signal is aborted, even by a fetch that ignores signals", async () => {
    stub = await startStub(breaks);
    const controller = new AbortController();
    const never = () => new Promise<Response>(() => undefined);
    const chat = client({ fetch: never });
    const turn = outcomeOf(chat.send("luna", "你好", { signal: controller.signal }));
    setTimeout(() => controller.abort(), 10);
    expect((await turn).error).toMatchObject({ code: "aborted" });
  });

  test("that falls silent is asked again", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const silent: Answer = (_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(start() + text(6, "你好"));
    };
    stub = await startStub(silent, stream([text(9, "呀"), done()]));
    let isHeard = false;
    const turn = outcomeOf(
      client().send("luna", "你好"),
      async () => void (isHeard = true),
    );
    await expect.poll(() => isHeard).toBe(true);
    while (stub.requests.length < 2) await vi.advanceTimersByTimeAsync(5_000);
    expect((await turn).text).toBe("你好呀");
  });

  test("that ends a stream a moment after its last event keeps its connection", async () => {
    stub = await startStub((_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" }).write(start() + done());
      setTimeout(() => response.end(), 50);
    });
    const chat = client();
    for (const message of ["一", "二", "三"]) await completed(chat.send("luna", message));
    // One more is that which the fetch of Node opens in advance.
    expect(stub.connections()).toBeLessThanOrEqual(2);
  });

  test("that never ends a stream does not hold up its last event, nor the caller for long", async () => {
    stub = await startStub((_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" }).write(start() + done());
    });
    const began = Date.now();
    const turn = client().send("luna", "你好");
    let last: number | undefined;
    for await (const event of turn) if (event.type === "done") last = Date.now();
    expect((last ?? Infinity) - began).toBeLessThan(500);
    expect(Date.now() - began).toBeLessThan(2_000);
  });

  test("behind a gateway that refuses is an error with a code", async () => {
    const { error } = await send((_, response) => {
      response.writeHead(403, { "content-type": "application/json" }).end('{"message":"Forbidden"}');
    });
    expect(error).toMatchObject({ code: "forbidden", status: 403 });
  });

  /** Everything that a client asks for. */
  const ASKS: [string, (chat: CompanionChat) => Promise<unknown>][] = [
    ["send", async (chat) => completed(chat.send("luna", "你好"))],
    ["regenerate", async (chat) => completed(chat.regenerate("luna", TURN))],
    ["edit", async (chat) => completed(chat.edit("luna", TURN, "你好"))],
    ["resume", async (chat) => completed(chat.resume("luna"))],
    ["stop", (chat) => chat.stop("luna")],
    ["history", (chat) => chat.history("luna")],
    ["sessions", (chat) => chat.sessions()],
    ["rewind", (chat) => chat.rewind("luna", TURN)],
    ["clear", (chat) => chat.clear("luna")],
    ["character", (chat) => chat.character("luna")],
    ["exportData", (chat) => chat.exportData().next()],
    ["eraseData", (chat) => chat.eraseData()],
  ];
  const FOREIGN = {
    "of one line": "<h1>Welcome to this hotel</h1>",
    "of many lines": "<h1>Welcome</h1>\n<p>to this hotel</p>\n",
    "that is empty": "",
    "of JSON": "null\n",
  };

  test.each(
    ASKS.flatMap(([ask, run]) => Object.entries(FOREIGN).map(([what, page]) => ({ ask, run, what, page }))),
  )("that is another one answers $ask with a page $what, which is an error", async ({ run, page }) => {
    stub = await startStub((_, response) => response.writeHead(200, { "content-type": "text/html" }).end(page));
    await expect(run(client())).rejects.toMatchObject({ name: "ChatError", code: "bad_response", status: 200 });
  });

  test.each(ASKS)("that answers %s with another status than it ever does is an error", async (_, run) => {
    stub = await startStub((_, response) => response.writeHead(418).end("<h1>Welcome to this hotel</h1>"));
    await expect(run(client())).rejects.toMatchObject({ code: "bad_response", status: 418 });
  });

  test.each([
    ["an event that is not JSON", "id: 0\nevent: start\ndata: <h1>\n\n"],
    ["an event that is no object", "id: 6\nevent: message\ndata: null\n\n"],
    ["a piece of text without a number", 'data: {"content":"你好","done":false}\n\n'],
  ])("whose stream has %s is an error", async (_, event) => {
    const { error } = await send(stream([event]));
    expect(error).toMatchObject({ name: "ChatError", code: "bad_response", status: 200 });
  });

  test.each(["no JSON", "null"])("whose export has the line %s is an error", async (line) => {
    stub = await startStub(exported(`${line}\n`));
    await expect(client().exportData().next()).rejects.toMatchObject({ code: "bad_response", status: 200 });
  });

  /** Answers with an export, and ends it, or breaks it. */
  function exported(text: string, end: "end" | "break" = "end"): Answer {
    return (_, response) => {
      response.writeHead(200, { "content-type": "application/x-ndjson" });
      response.write(text, () => (end === "end" ? response.end() : response.destroy()));
    };
  }

  const LINE = '{"type":"session","character_id":"luna"}\n';
  test.each([
    ["ends within a line", exported('{"type":"end","sessions":0')],
    ["ends after a line", exported(LINE)],
    ["breaks within a line", exported('{"type":"end","sessions":0', "break")],
    ["breaks after a line", exported(LINE, "break")],
  ])("whose export %s is an error", async (_, answer) => {
    stub = await startStub(answer);
    await expect(async () => {
      for await (const item of client().exportData()) expect(item.type).toBe("session");
    }).rejects.toMatchObject({ code: "connection_lost" });
  });

  test("that does not answer to an export cannot be reached", async () => {
    stub = await startStub(breaks);
    await expect(client().exportData().next()).rejects.toMatchObject({ code: "unreachable" });
  });

  test("whose answer is cut is one that did not answer", async () => {
    stub = await startStub((_, response) => {
      response.writeHead(200, { "content-type": "application/json" });
      response.write('{"sessions":', () => response.destroy());
    });
    const failure: unknown = await client().sessions().catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: "unreachable" });
    expect(failure).not.toHaveProperty("status");
  });

  test("whose export fails is an error", async () => {
    stub = await startStub(exported('{"type":"error","code":"memory_unavailable","detail":"no"}\n'));
    const chat = client();
    await expect(chat.exportData().next()).rejects.toMatchObject({ code: "memory_unavailable", detail: "no" });
  });

  test("is asked for another token mid-reply, when the first has expired", async () => {
    let asked = 0;
    stub = await startStub(
      stream([start(), text(6, "你好")], "break"),
      problem(401, "unauthorized"),
      stream([text(9, "呀"), done()]),
    );
    const chat = client({ token: () => `token-${(asked += 1)}` });
    expect((await completed(chat.send("luna", "你好"))).text).toBe("你好呀");
    expect(stub.requests.map(({ token }) => token)).toEqual(["Bearer token-1", "Bearer token-2", "Bearer token-3"]);
  });

  test("is found again although the callback for the token fails while offline", async () => {
    let asked = 0;
    stub = await startStub(stream([start(), text(6, "你好")], "break"), stream([text(9, "呀"), done()]));
    const token = async () => {
      asked += 1;
      if (asked === 2) throw new TypeError("offline");
      return "token";
    };
    expect((await completed(client({ token }).send("luna", "你好"))).text).toBe("你好呀");
    expect(asked).toBe(3);
  });

  test("is not asked without a token", async () => {
    stub = await startStub(breaks);
    const token = () => Promise.reject(new Error("signed out"));
    const { error } = await outcomeOf(client({ token }).send("luna", "你好"));
    expect(error).toMatchObject({ code: "token_unavailable", cause: new Error("signed out") });
    expect(stub.requests).toHaveLength(0);
  });

  test("may take minutes for a long response, as long as something comes", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    stub = await startStub(breaks);
    const pieces = ['{"sessions":', "[],", '"next":', "null}"];
    const body = new ReadableStream({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 20_000));
        const piece = pieces.shift();
        if (piece) controller.enqueue(new TextEncoder().encode(piece));
        else controller.close();
      },
    });
    const chat = client({ fetch: async () => new Response(body) });
    const page = chat.sessions();
    await vi.advanceTimersByTimeAsync(120_000);
    expect(await page).toEqual({ sessions: [], next: null });
  });

  test("may be asked for what needs no stream by a fetch that has none", async () => {
    stub = await startStub(breaks);
    const answer = { ok: true, status: 200, headers: new Headers(), body: null, text: async () => '{"sessions":[],"next":null}' };
    const bodiless = (async () => answer) as unknown as typeof fetch;
    const chat = client({ fetch: bodiless });
    expect(await chat.sessions()).toEqual({ sessions: [], next: null });
  });

  test("is told apart from a fetch that cannot stream", async () => {
    stub = await startStub(breaks);
    const bodiless = async () => ({ ok: true, status: 200, headers: new Headers({ "content-type": "text/event-stream" }), body: null });
    const chat = client({ fetch: bodiless as unknown as typeof fetch });
    const { error } = await outcomeOf(chat.send("luna", "你好"));
    expect(error).toMatchObject({ code: "no_stream" });
    expect((error as ChatError).message).toContain("expo/fetch");
  });
});

// The last tests of all: the functions take a moment to trust a Redis that is back.
describe("Redis", () => {
  afterEach(async () => {
    await order("kill");
    await order("start");
  });

  test("that is killed costs the memory, and not the conversation", { timeout: 60_000 }, async () => {
    const chat = newUser();
    const first = await completed(chat.send("luna", "你好"));
    await order("kill");

    const { events, done } = await completed(chat.send("luna", "还在吗？"));
    expect(events[0]).toMatchObject({ type: "start", memory: "unavailable", resumable: false });
    expect(done).toMatchObject({ saved: false, unsaved: "memory" });
    await expect(chat.history("luna")).rejects.toMatchObject({ code: "memory_unavailable", status: 503 });
    await expect(chat.stop("luna")).rejects.toMatchObject({ code: "memory_unavailable", retryAfterSeconds: 1 });

    // A request that needs Redis is made again until Redis is back, with nothing lost but what Redis has lost.
    const regenerated = outcomeOf(chat.regenerate("luna", first.done.userMsgId));
    await order("start");
    expect((await regenerated).error).toMatchObject({ code: "message_not_found" });
    await vi.waitFor(async () => {
      // Another user each time, because each has a limit of turns.
      const { events } = await completed(newUser().send("luna", "你好"));
      expect(events[0]).toMatchObject({ memory: "empty", resumable: true });
    }, 20_000);
  });

  test("that is down makes a cut final, because the turn is not recorded", { timeout: 60_000 }, async () => {
    await order("kill");
    const proxy = await Proxy.start();
    const { message, release } = heldTurn();
    const turn = newUser({ baseUrl: proxy.url }).send("luna", message);
    const { error, events } = await outcomeOf(turn, () => proxy.stop());
    await release();
    expect(error).toMatchObject({ code: "connection_lost" });
    expect(events.map(({ type }) => type)).not.toContain("connection");
  });
});
