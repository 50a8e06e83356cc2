/** Conversations with the real functions, while nothing breaks. */

import { randomUUID } from "node:crypto";

import { describe, expect, test } from "vitest";

import { ChatError, type ExportItem, type TurnEvent } from "../src/index.js";
import { completed, heldTurn, newUser, order, outcomeOf, running, script, tokenOf } from "./setup/harness.js";
import { TURNS_PER_MINUTE } from "./setup/service.js";

describe("a message", () => {
  test("is answered piece by piece, and both are stored", async () => {
    const chat = newUser();
    const heard: string[] = [];
    const { events, text, done } = await completed(
      chat.send("luna", script({ say: ["在看呀，", "和你", "一起。"] }), { onText: (piece) => heard.push(piece) }),
    );

    expect(events.map(({ type }) => type)).toEqual(["start", "text", "text", "text", "done"]);
    expect(events[0]).toMatchObject({ memory: "empty", historyMessages: 0, resumable: true, turnId: done.turnId });
    expect(text).toBe("在看呀，和你一起。");
    expect(heard).toEqual(["在看呀，", "和你", "一起。"]);
    expect(done).toMatchObject({ finishReason: "stop", saved: true });
    expect(done.usage.promptTokens).toBeGreaterThan(0);
    expect(done).not.toHaveProperty("unsaved");
    const { messages } = await chat.history("luna");
    expect(messages.map(({ msg_id, role }) => [msg_id, role])).toEqual([
      [done.userMsgId, "user"],
      [done.msgId, "assistant"],
    ]);
  });

  test("is remembered in the next turn", async () => {
    const chat = newUser();
    await completed(chat.send("luna", "我叫小雨。"));
    const { events } = await completed(chat.send("luna", "我叫什么？"));
    expect(events[0]).toMatchObject({ memory: "ok", historyMessages: 2 });
  });

  test("is stored with its metadata", async () => {
    const chat = newUser();
    await completed(chat.send("luna", "你好", { metadata: { client: "ios", build: 7 } }));
    const { messages } = await chat.history("luna");
    expect(messages[0]?.metadata).toEqual({ client: "ios", build: 7 });
  });

  test("comes as it is typed, before the reply is complete", async () => {
    const { message, release } = heldTurn();
    const turn = newUser().send("luna", message)[Symbol.asyncIterator]();
    expect((await turn.next()).value).toMatchObject({ type: "start" });
    expect((await turn.next()).value).toEqual({ type: "text", text: "在看" });
    await release();
    expect((await turn.next()).value).toEqual({ type: "text", text: "呀，和你一起。" });
  });

  test("that is sent twice with one key is one turn", async () => {
    const chat = newUser();
    const { message, isHeld, release } = heldTurn();
    const key = randomUUID();
    const before = Number(await order("requests"));
    const both = [completed(chat.send("luna", message, { key })), completed(chat.send("luna", message, { key }))];
    await isHeld();
    await release();
    const [first, second] = await Promise.all(both);

    expect(second?.done).toEqual(first?.done);
    expect(second?.text).toBe(first?.text);
    expect((await chat.history("luna")).messages).toHaveLength(2);
    expect(Number(await order("requests")) - before).toBe(1);
  });

  test("that is sent twice without a key is two turns", async () => {
    const chat = newUser();
    await completed(chat.send("luna", "你好"));
    await completed(chat.send("luna", "你好"));
    expect((await chat.history("luna")).messages).toHaveLength(4);
  });

  test("of another text with the same key is refused", async () => {
    const chat = newUser();
    await completed(chat.send("luna", "你好", { key: "a-key" }));
    const { error } = await outcomeOf(chat.send("luna", "再见", { key: "a-key" }));
    expect(error).toMatchObject({ code: "idempotency_key_reused", status: 422 });
  });
});

describe("a turn that runs", () => {
  test("is stopped with what came, and is stored", async () => {
    const chat = newUser();
    const { message, isHeld } = heldTurn();
    const turn = completed(chat.send("luna", message));
    await isHeld();

    expect(await chat.stop("luna")).toBe(true);

    const { text, done } = await turn;
    expect(done).toMatchObject({ finishReason: "stopped", saved: true });
    expect(text).toBe("在看");
    expect((await chat.history("luna")).messages.at(-1)?.content).toBe("在看");
  });

  test("is stopped by its id, and only once", async () => {
    const chat = newUser();
    const { message, isHeld } = heldTurn();
    const turn = chat.send("luna", message)[Symbol.asyncIterator]();
    const first = (await turn.next()).value;
    if (first?.type !== "start") throw new Error("the turn has not begun");
    await isHeld();
    expect(await chat.stop("luna", first.turnId)).toBe(true);
    for (;;) if ((await turn.next()).done) break;
    expect(await chat.stop("luna", first.turnId)).toBe(false);
  });

  test("goes on when its signal is aborted, and resume finds it", async () => {
    const chat = newUser();
    const { message, isHeld, release } = heldTurn();
    const controller = new AbortController();
    const turn = outcomeOf(chat.send("luna", message, { signal: controller.signal }));
    await isHeld();
    const began = Date.now();
    controller.abort();
    const { error, text } = await turn;
    expect(Date.now() - began).toBeLessThan(500);
    expect(error).toBeInstanceOf(ChatError);
    expect(error).toMatchObject({ code: "aborted", name: "AbortError" });

    let all = "";
    let last: TurnEvent | undefined;
    for await (const event of chat.resume("luna")) {
      if (event.type === "start") await release();
      if (event.type === "text") all += event.text;
      last = event;
    }
    expect(all).toBe("在看呀，和你一起。");
    expect(all.startsWith(text)).toBe(true);
    if (last?.type !== "done") throw new Error("the turn has no last event");
    expect((await chat.history("luna")).messages.at(-1)?.msg_id).toBe(last.msgId);
  });

  test("goes on when the loop is left", async () => {
    const chat = newUser();
    const { message, release } = heldTurn();
    let turnId = "";
    for await (const event of chat.send("luna", message)) {
      if (event.type === "start") turnId = event.turnId;
      if (event.type === "text") break;
    }
    await release();
    const { text, done } = await completed(chat.resume("luna", { turnId }));
    expect(text).toBe("在看呀，和你一起。");
    expect(done.saved).toBe(true);
  });
});

describe("a turn", () => {
  test("is resumed after the text that the caller has", async () => {
    const chat = newUser();
    const { done } = await completed(chat.send("luna", script({ say: ["你好", "呀。"] })));
    const resumed = await completed(chat.resume("luna", { turnId: done.turnId, after: 6 }));
    expect(resumed.text).toBe("呀。");
    expect(resumed.done).toEqual(done);
    expect(resumed.events[0]?.type).toBe("text");
  });

  test("that does not run is not resumed without its id", async () => {
    const chat = newUser();
    await completed(chat.send("luna", "你好"));
    expect((await outcomeOf(chat.resume("luna"))).events).toEqual([]);
    expect(await chat.stop("luna")).toBe(false);
  });

  test("that is unknown is an error", async () => {
    const { error } = await outcomeOf(newUser().resume("luna", { turnId: randomUUID() }));
    expect(error).toMatchObject({ code: "turn_not_found", status: 404 });
  });

  test("of another user is unknown", async () => {
    const { done } = await completed(newUser().send("luna", "你好"));
    const { error } = await outcomeOf(newUser().resume("luna", { turnId: done.turnId }));
    expect(error).toMatchObject({ code: "turn_not_found" });
  });
});

describe("the history", () => {
  test("is read a page at a time, oldest first", async () => {
    const chat = newUser();
    for (const message of ["一", "二", "三"]) await completed(chat.send("luna", message));
    const newest = await chat.history("luna", { limit: 4 });
    expect(newest.messages.map(({ content }) => content)).toEqual(["二", "二", "三", "三"]);
    expect(newest.has_more).toBe(true);
    const before = newest.messages[0]?.msg_id ?? "";
    const oldest = await chat.history("luna", { limit: 4, before });
    expect(oldest.messages.map(({ content }) => content)).toEqual(["一", "一"]);
    expect(oldest.has_more).toBe(false);
  });

  test("is rewound to before a message", async () => {
    const chat = newUser();
    await completed(chat.send("luna", "一"));
    const { done } = await completed(chat.send("luna", "二"));
    await chat.rewind("luna", done.userMsgId);
    expect((await chat.history("luna")).messages.map(({ content }) => content)).toEqual(["一", "一"]);
    await expect(chat.rewind("luna", done.userMsgId)).rejects.toMatchObject({ code: "message_not_found" });
  });

  test("is cleared", async () => {
    const chat = newUser();
    await completed(chat.send("luna", "一"));
    await chat.clear("luna");
    await chat.clear("luna");
    expect((await chat.history("luna")).messages).toEqual([]);
  });

  test("has the new reply after regenerate, in the place of the old one", async () => {
    const chat = newUser();
    const first = await completed(chat.send("luna", "一"));
    await completed(chat.send("luna", "二"));
    const { done, events } = await completed(chat.regenerate("luna", first.done.userMsgId));
    expect(events[0]).toMatchObject({ memory: "empty" });
    const { messages } = await chat.history("luna");
    expect(messages.map(({ content }) => content)).toEqual(["一", "一"]);
    expect(messages.map(({ msg_id }) => msg_id)).toEqual([done.userMsgId, done.msgId]);
    expect(done.msgId).not.toBe(first.done.msgId);
  });

  test("has the new message after edit", async () => {
    const chat = newUser();
    const { done } = await completed(chat.send("luna", "一"));
    await completed(chat.edit("luna", done.userMsgId, "二"));
    expect((await chat.history("luna")).messages.map(({ content }) => content)).toEqual(["二", "二"]);
    const { error } = await outcomeOf(chat.edit("luna", done.userMsgId, "三"));
    expect(error).toMatchObject({ code: "message_not_found", status: 404 });
  });
});

describe("a user", () => {
  test("has sessions, newest first, a page at a time", async () => {
    const chat = newUser();
    await completed(chat.send("luna", "一"));
    await completed(chat.send("kai", "二"));
    const first = await chat.sessions({ limit: 1 });
    expect(first.sessions.map(({ character_id }) => character_id)).toEqual(["kai"]);
    expect(first.sessions[0]?.last_message?.content).toBe("二");
    const { sessions, next } = await chat.sessions({ limit: 1, before: first.next ?? "" });
    expect(sessions.map(({ character_id }) => character_id)).toEqual(["luna"]);
    expect(next).toBeNull();
  });

  test("exports everything, and erases it", async () => {
    const chat = newUser();
    await completed(chat.send("luna", "行\u2028分隔"));
    const items: ExportItem[] = [];
    for await (const item of chat.exportData()) items.push(item);
    expect(items.map(({ type }) => type)).toEqual(["session", "message", "message", "turn", "limit", "end"]);
    expect(items.at(-1)).toEqual({ type: "end", sessions: 1, messages: 2, turns: 1 });
    expect(items[1]).toMatchObject({ character_id: "luna", content: "行\u2028分隔" });

    const { erased } = await chat.eraseData();
    expect(erased).toEqual({ sessions: 1, messages: 2, turns: 1 });
    expect((await chat.history("luna")).messages).toEqual([]);
  });

  test("sees a character's name and greetings", async () => {
    const luna = await newUser().character("luna", { userName: "小雨" });
    expect(luna.character_id).toBe("luna");
    expect(luna.name).not.toBe("");
    expect(Array.isArray(luna.greetings)).toBe(true);
  });

  test("is refused when a limit is used up", async () => {
    const chat = newUser();
    let error: unknown;
    // Two minutes' worth: the minute may change on the way.
    for (let turn = 0; turn <= 2 * TURNS_PER_MINUTE && !error; turn += 1) {
      ({ error } = await outcomeOf(chat.send("luna", "你好")));
    }
    expect(error).toMatchObject({ code: "too_many_requests", status: 429 });
    expect((error as ChatError).retryAfterSeconds).toBeGreaterThan(0);
    expect((error as ChatError).retryAfterSeconds).toBeLessThanOrEqual(60);
  });
});

describe("a token", () => {
  test("that has expired is asked for again, once", async () => {
    const tokens = [tokenOf("the-user", -3600), tokenOf("the-user")];
    let asked = 0;
    const chat = newUser({ token: async () => tokens[asked++] ?? "" });
    await completed(chat.send("luna", "你好"));
    expect(asked).toBe(2);
  });

  test("that is refused twice is an error", async () => {
    let asked = 0;
    const chat = newUser({ token: () => (asked++, tokenOf("the-user", -3600)) });
    const { error } = await outcomeOf(chat.send("luna", "你好"));
    expect(error).toMatchObject({ code: "unauthorized", status: 401 });
    expect(asked).toBe(2);
    await expect(chat.history("luna")).rejects.toMatchObject({ code: "unauthorized" });
  });

  test("that is no callback is used once", async () => {
    await expect(newUser({ token: "wrong" }).history("luna")).rejects.toMatchObject({ code: "unauthorized" });
  });

  test("that no header can hold is an error, and no lost connection", async () => {
    const { error } = await outcomeOf(newUser({ token: "a\nb" }).send("luna", "你好"));
    expect(error).toMatchObject({ code: "token_unavailable" });
  });
});

describe("what the service refuses", () => {
  test.each([
    ["an empty message", "luna", "", "invalid_request", 422],
    ["an unknown character", "nobody", "你好", "character_not_found", 404],
    ["half of a surrogate pair", "luna", "\uD800", "invalid_json", 400],
    ["a message of over 64 KiB", "luna", "长".repeat(30_000), "payload_too_large", 413],
  ])("%s is an error with a code", async (_, character, message, code, status) => {
    const { events, error } = await outcomeOf(newUser().send(character, message));
    expect(error).toBeInstanceOf(ChatError);
    expect(error).toMatchObject({ code, status, name: "ChatError" });
    expect((error as ChatError).detail).toBeTruthy();
    expect(events).toEqual([]);
  });

  test("half of a surrogate pair in an id is refused too", async () => {
    await expect(newUser().history("\uD800")).rejects.toMatchObject({ code: "invalid_request" });
  });
});

describe("what the client refuses", () => {
  test.each(["127.0.0.1:9000", "ftp://host", "https:/host"])("the address %s", (baseUrl) => {
    expect(() => newUser({ baseUrl })).toThrow(TypeError);
  });

  test("a slash at the end of the address does no harm", async () => {
    expect(await newUser({ baseUrl: `${running.url}/` }).sessions()).toEqual({ sessions: [], next: null });
  });

  test("a key that no header can hold", () => {
    expect(() => newUser().send("luna", "你好", { key: "一" })).toThrow(TypeError);
  });

  const circular: { self?: object } = {};
  circular.self = circular;
  test.each([
    ["contains itself", circular],
    ["has a bigint", { at: 1n }],
    ["is a function", () => undefined],
  ])("metadata that %s, and names it", (_, metadata) => {
    const chat = newUser();
    const misuses = [
      () => chat.send("luna", "你好", { metadata }),
      () => chat.regenerate("luna", "id", { metadata }),
      () => chat.edit("luna", "id", "你好", { metadata }),
    ];
    for (const misuse of misuses) {
      expect(misuse).toThrow(TypeError);
      expect(misuse).toThrow(/^metadata must be an object that JSON can hold: ./);
    }
  });
});
