/** The page and the real hook, against the real functions. */

import { randomUUID } from "node:crypto";

import { useChat, type UseChatHelpers } from "@ai-sdk/react";
import { act, cleanup, fireEvent, render, renderHook, screen, waitFor } from "@testing-library/react";
import { afterEach, beforeEach, describe, expect, inject, test, vi } from "vitest";

import { CuttingProxy } from "../../../test/setup/proxy.ts";
import { type Answer, breaks, problem, startStub, type Stub, stream } from "../../../test/setup/stub.ts";
import { signedToken } from "../../../test/setup/token.ts";
import type { Script } from "../../../test/setup/upstream.ts";
import { Companion, type Message } from "../src/companion.ts";
import { Page } from "../src/page.tsx";

declare module "vitest" {
  export interface ProvidedContext {
    /** The functions, the secret that signs tokens, and where the model server takes orders. */
    running: { url: string; secret: string; control: string };
  }
}

const { url, secret, control } = inject("running");
const CHARACTER = "luna";
/** The functions may be slow on a busy machine. */
const PATIENCE = { timeout: 15_000 };

let token: string;
/** The network, where a test loses it. */
let proxy: CuttingProxy | undefined;

beforeEach(() => {
  token = signedToken(secret, `user-${randomUUID()}`);
});

afterEach(async () => {
  cleanup();
  sessionStorage.clear();
  vi.restoreAllMocks();
  await proxy?.stop();
  proxy = undefined;
});

test("a reply streams, and both messages get the ids under which they are stored", async () => {
  const turn = await openInMidReply();
  expect(button("Send").disabled).toBe(true);
  await turn.release();
  await shows([turn.message, "在看呀，和你一起。"]);
  await isReady();
  expect(shown().map(({ id }) => id)).toEqual((await stored()).map(({ msg_id }) => msg_id));
});

test("a reply that is stopped stays as far as it came, and can be asked for again", async () => {
  const turn = await openInMidReply();
  fireEvent.click(button("Stop"));
  await isReady();
  expect(screen.queryByRole("alert")).toBeNull();
  expect(texts()).toEqual([turn.message, "在看"]);
  expect((await stored())[1]).toMatchObject({ content: "在看", metadata: { finish_reason: "stopped" } });
  await turn.release();
  fireEvent.click(button("Again"));
  await shows([turn.message, "在看呀，和你一起。"]);
  await isReady();
  expect((await stored()).map(({ content }) => content)).toEqual([turn.message, "在看呀，和你一起。"]);
});

test("a page that is reloaded in the middle of a reply shows the question, and the reply from its beginning", async () => {
  const turn = held(["在看", "呀，和你一起。"]);
  await open();
  send("你好");
  await shows(["你好", "你好"]);
  await isReady();
  send(turn.message);
  await shows(["你好", "你好", turn.message, "在看"]);
  cleanup();
  await open();
  await shows(["你好", "你好", turn.message, "在看"]);
  await turn.release();
  await shows(["你好", "你好", turn.message, "在看呀，和你一起。"]);
  await isReady();
  expect(shown().map(({ id }) => id)).toEqual((await stored()).map(({ msg_id }) => msg_id));
});

test("a reply that ends while the page is away is there when it comes back, once", async () => {
  const turn = await openInMidReply();
  cleanup();
  await turn.release();
  await waitFor(async () => expect(await stored()).toHaveLength(2), PATIENCE);
  await open();
  await shows([turn.message, "在看呀，和你一起。"]);
  await isReady();
  expect(sessionStorage).toHaveLength(0);
});

test("a reply that ends after the page has read the history is not missed", async () => {
  const turn = await openInMidReply();
  cleanup();
  const companion = newCompanion();
  const past = await companion.messages();
  await turn.release();
  await waitFor(async () => expect(await stored()).toHaveLength(2), PATIENCE);
  companion.messages = () => Promise.resolve(past);
  await open(companion);
  await shows([turn.message, "在看呀，和你一起。"]);
});

test("an edited message takes the place of the stored one, with all after it", async () => {
  const { result, say } = openHook();
  await say("一");
  await say("二");
  await say("三", result.current.messages[2]);
  await say("四", result.current.messages[0]);
  await say("五");
  const expected = ["四", "四", "五", "五"];
  expect((await stored()).map(({ content }) => content)).toEqual(expected);
  expect(result.current.messages.map(({ id }) => id)).toEqual((await stored()).map(({ msg_id }) => msg_id));
});

test("another device comes to a reply that runs, without the question", async () => {
  const turn = await openInMidReply();
  cleanup();
  sessionStorage.clear();
  await open();
  await shows(["在看"]);
  await turn.release();
  await shows(["在看呀，和你一起。"]);
});

test("a reply that is asked for again takes the place of the old one, also over a reload", async () => {
  const turn = await openInMidReply();
  fireEvent.click(button("Stop"));
  await isReady();
  const before = shown().map(({ id }) => id);
  fireEvent.click(button("Again"));
  await waitFor(() => expect([texts()[1], shown()[1]?.id === before[1]]).toEqual(["在看", false]), PATIENCE);
  cleanup();
  await open();
  await shows([turn.message, "在看"]);
  expect(before).not.toContain(shown()[1]?.id);
  await turn.release();
  await shows([turn.message, "在看呀，和你一起。"]);
  await isReady();
  const after = shown().map(({ id }) => id);
  expect(after.filter((id) => before.includes(id))).toEqual([]);
  expect(after).toEqual((await stored()).map(({ msg_id }) => msg_id));
});

test("a reply that fails is an error, and what is stored of it is known", async () => {
  const refused = script({ status: 400 });
  await open();
  send(refused);
  await waitFor(() => expect(screen.getByRole("alert").textContent).toBe("服务暂时不可用，请稍后重试"), PATIENCE);
  // What is not stored is sent anew, and not asked for by an id.
  const requests = await asked();
  fireEvent.click(button("Again"));
  await waitFor(async () => expect(await asked()).toBe(requests + 1), PATIENCE);
  await waitFor(() => expect(screen.getByRole("alert").textContent).toBe("服务暂时不可用，请稍后重试"), PATIENCE);
  expect(await stored()).toEqual([]);
  const cut = script({ say: ["半"], breaks: true });
  send(cut);
  await waitFor(() => expect(texts().slice(-2)).toEqual([cut, "半"]), PATIENCE);
  await waitFor(() => screen.getByRole("alert"), PATIENCE);
  const ids = (await stored()).map(({ msg_id }) => msg_id);
  expect(shown().map(({ id }) => id).slice(-2)).toEqual(ids);
});

test("a turn that was cleared is nothing to come back to", async () => {
  const turn = await openInMidReply();
  cleanup();
  await ask("DELETE", "history");
  await turn.release();
  await waitFor(async () => expect((await ask("GET", "stream")).status).toBe(204), PATIENCE);
  await open();
  await waitFor(() => expect(sessionStorage).toHaveLength(0), PATIENCE);
  await isReady();
  expect(screen.queryByRole("alert")).toBeNull();
});

describe("a connection that is cut", () => {
  test("in the middle of a reply loses nothing, and asking again replaces the reply", async () => {
    proxy = await CuttingProxy.start(url);
    const turn = await openInMidReply();
    const before = await asked();
    proxy.cut();
    await turn.release();
    await shows([turn.message, "在看呀，和你一起。"]);
    await isReady();
    expect(screen.queryByRole("alert")).toBeNull();
    expect(await asked()).toBe(before);
    const ids = (await stored()).map(({ msg_id }) => msg_id);
    expect(shown().map(({ id }) => id)).toEqual(ids);
    fireEvent.click(button("Again"));
    await waitFor(async () => expect((await stored()).map(({ msg_id }) => msg_id)).not.toEqual(ids), PATIENCE);
    await isReady();
    await isAsStored([turn.message, "在看呀，和你一起。"]);
  });

  test("anywhere, and again at once, loses nothing", { timeout: 120_000 }, async () => {
    hurry();
    const say = script({ say: ["在看", "呀，😀", "ok."] });
    const uncut = await CuttingProxy.start(url);
    proxy = uncut;
    await openHook().say(say);
    const total = uncut.bytes;
    expect(total).toBeGreaterThan(500);
    await uncut.stop();
    let whole = 0;
    for (let first = 1; first < total; first += 37) {
      // A user may not begin so many turns in a minute.
      token = signedToken(secret, `user-${randomUUID()}`);
      sessionStorage.clear();
      proxy = await CuttingProxy.start(url, [first, total - first, first]);
      const before = await asked();
      const hook = openHook();
      await hook.say(say);
      const where = `cut after ${first} bytes of ${total}`;
      expect(hook.result.current.error, where).toBeUndefined();
      if (proxy.connections === 1) whole += 1;
      expect(hook.messages(), where).toEqual([say, "在看呀，😀ok."]);
      expect(hook.result.current.messages[1]?.parts.map(({ type }) => type)).toEqual(["text", "data-done"]);
      expect(hook.result.current.messages.map(({ id }) => id)).toEqual((await stored()).map(({ msg_id }) => msg_id));
      expect(await asked()).toBe(before + 1);
      hook.unmount();
      await proxy.stop();
    }
    // What comes after the last part, the page does without.
    expect(whole).toBeLessThan(2);
  });

  test("at a turn that then ends with nothing stored leaves a message that can be sent again", async () => {
    proxy = await CuttingProxy.start(url);
    const turn = held(["在看", "呀，和你一起。"], 0);
    await open();
    send(turn.message);
    await turn.isHeld();
    proxy.goDown();
    expect((await ask("DELETE", "stream")).status).toBe(202);
    proxy.isDown = false;
    await waitFor(() => expect(texts().at(-1)).toContain("(not saved)"), PATIENCE);
    await isReady();
    await turn.release();
    fireEvent.click(button("Again"));
    await shows([turn.message, "在看呀，和你一起。"]);
    await isReady();
    await isAsStored([turn.message, "在看呀，和你一起。"]);
  });

  test("while the conversation is cleared leaves a page without it", async () => {
    proxy = await CuttingProxy.start(url);
    const turn = await openInMidReply();
    proxy.goDown();
    await ask("DELETE", "history");
    await turn.release();
    await waitFor(async () => expect((await ask("GET", "stream")).status).toBe(204), PATIENCE);
    proxy.isDown = false;
    await shows([]);
    await isReady();
    expect(screen.queryByRole("alert")).toBeNull();
    expect(sessionStorage).toHaveLength(0);
  });

  test("of another device that looks on loses nothing, also if the reply ends meanwhile", async () => {
    const turn = await openInMidReply();
    cleanup();
    sessionStorage.clear();
    proxy = await CuttingProxy.start(url);
    await open();
    await shows(["在看"]);
    proxy.goDown();
    await turn.release();
    await waitFor(async () => expect(await stored()).toHaveLength(2), PATIENCE);
    proxy.isDown = false;
    await shows(["在看呀，和你一起。"]);
    await isReady();
  });
});

describe("a network that is gone for longer", () => {
  beforeEach(async () => {
    proxy = await CuttingProxy.start(url);
    hurry();
  });

  test("is an error, and asking again brings the reply that was written meanwhile", async () => {
    const turn = await openAndLose();
    const before = await asked();
    await turn.release();
    await waitFor(async () => expect(await stored()).toHaveLength(2), PATIENCE);
    found();
    fireEvent.click(button("Again"));
    await shows([turn.message, "在看呀，和你一起。"]);
    await isReady();
    expect(screen.queryByRole("alert")).toBeNull();
    expect(await asked()).toBe(before);
    await isAsStored([turn.message, "在看呀，和你一起。"]);
  });

  test("is an error, and another message comes after the reply that still runs", async () => {
    const turn = await openAndLose();
    const before = await asked();
    found();
    send("你好");
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(await asked()).toBe(before);
    await turn.release();
    await shows([turn.message, "在看呀，和你一起。", "你好", "你好"]);
    await isReady();
    await isAsStored([turn.message, "在看呀，和你一起。", "你好", "你好"]);
  });

  test("is an error, and the message can be edited when it is stored", async () => {
    const turn = held(["在看", "呀，和你一起。"]);
    const { result, say, messages } = openHook();
    await act(async () => {
      const lost = result.current.sendMessage({ text: turn.message });
      await turn.isHeld();
      proxy?.goDown();
      await lost;
    });
    expect(result.current.error).toBeDefined();
    await turn.release();
    found();
    await say("你好", result.current.messages[0]);
    expect(messages()).toEqual(["你好", "你好"]);
    expect((await stored()).map(({ content }) => content)).toEqual(["你好", "你好"]);
  });

  test.each(["arrives", "does not arrive"])("before any response to a message that %s sends it once", async (arrives) => {
    const turn = held(["在看"], 0);
    const { result, say, messages } = openHook();
    const before = await asked();
    await act(async () => {
      lose(arrives === "arrives" ? "isMute" : "isDown");
      const lost = result.current.sendMessage({ text: turn.message });
      if (arrives === "arrives") await turn.isHeld();
      lose("isDown");
      await lost;
    });
    expect(result.current.error).toBeDefined();
    found();
    await turn.release();
    await act(() => result.current.regenerate());
    expect(messages()).toEqual([turn.message, "在看"]);
    expect(await asked()).toBe(before + 1);
    // The next message is another one.
    await say("你好");
    expect((await stored()).map(({ content }) => content)).toEqual([turn.message, "在看", "你好", "你好"]);
    expect(messages()).toEqual([turn.message, "在看", "你好", "你好"]);
  });

  test("before any response to a message sends it once, also over a reload", async () => {
    await open();
    proxy?.goDown();
    send("你好");
    await waitFor(() => screen.getByRole("alert"), PATIENCE);
    cleanup();
    found();
    await open();
    await shows(["你好", "你好"]);
    await isReady();
    await isAsStored(["你好", "你好"]);
    cleanup();
    await open();
    await isAsStored(["你好", "你好"]);
  });

  /** Opens the page, and loses the network in the middle of a reply, until that is an error. */
  async function openAndLose() {
    const turn = await openInMidReply();
    proxy?.goDown();
    await waitFor(() => expect(screen.getByRole("alert").textContent).toContain("cannot be reached"), PATIENCE);
    return turn;
  }

  function lose(how: "isDown" | "isMute"): void {
    if (how === "isDown") proxy?.goDown();
    else if (proxy) proxy.isMute = true;
  }

  function found(): void {
    if (proxy) proxy.isDown = proxy.isMute = false;
  }
});

describe("a service", () => {
  const TURN = "01936d2a-7c3e-7b51-9f04-5a1c8e2d6b90";
  let stub: Stub;
  beforeEach(hurry);
  afterEach(() => stub.stop());

  const part = (value: object): string => `data: ${JSON.stringify(value)}\n\n`;
  const begun = (resumable = true): string[] => [
    part({ type: "start", messageId: "reply" }),
    part({ type: "data-start", data: { turn_id: TURN, resumable, msg_id: "reply", user_msg_id: "m" }, transient: true }),
    part({ type: "text-start", id: "text" }),
    said("在看"),
  ];
  const said = (delta: string): string => part({ type: "text-delta", id: "text", delta });
  const ended = [
    said("呀"),
    part({ type: "text-end", id: "text" }),
    part({ type: "data-done", data: { turn_id: TURN, msg_id: "reply", user_msg_id: "m", saved: true } }),
    part({ type: "finish", finishReason: "stop" }),
  ];
  const failed = part({ type: "error", errorText: "服务暂时不可用，请稍后重试" });

  async function sendTo(...answers: Answer[]) {
    stub = await startStub(...answers);
    const hook = openHook(new Companion({ url: stub.url, token: () => token, character: CHARACTER }));
    await hook.say("你好");
    return hook;
  }

  test.each([
    ["ends a response without its last part", stream(begun())],
    ["ends a response with an error that is not that of the turn", stream([...begun(), failed])],
    ["breaks a response", stream(begun(), "break")],
  ])("that %s is asked for the rest", async (_, first) => {
    const { result, messages } = await sendTo(first, problem(503, "memory_unavailable"), stream([...begun(), ...ended]));
    expect(result.current.error).toBeUndefined();
    expect(messages()).toEqual(["你好", "在看呀"]);
    expect(stub.requests.map(({ method }) => method)).toEqual(["POST", "GET", "GET"]);
    expect(stub.requests[2]?.url).toContain(`turn_id=${TURN}`);
  });

  test.each([401, 429])("that answers %d is not asked again, until the user does", async (status) => {
    const { result, messages } = await sendTo(problem(status, "no"), stream([...begun(), ...ended]));
    expect(result.current.error?.message).toContain("because of no");
    expect(stub.requests).toHaveLength(1);
    await act(() => result.current.regenerate());
    expect(messages()).toEqual(["你好", "在看呀"]);
    expect(stub.requests[1]).toEqual(stub.requests[0]);
  });

  test.each([403, 422, 500])("that answers %d to a message is not asked for it when another is sent", async (status) => {
    const { say, messages } = await sendTo(problem(status, "no"), stream([...begun(), ...ended]));
    await say("在吗");
    expect(messages()).toEqual(["你好", "在吗", "在看呀"]);
    expect(stub.requests.map(({ method }) => method)).toEqual(["POST", "POST"]);
    expect(stub.requests[1]?.key).not.toBe(stub.requests[0]?.key);
  });

  test("that does not record a turn loses it with its connection, and asking again is the same request", async () => {
    const { result, messages } = await sendTo(stream(begun(false), "break"), stream([...begun(), ...ended]));
    expect(result.current.error).toBeInstanceOf(TypeError);
    expect(stub.requests).toHaveLength(1);
    await act(() => result.current.regenerate());
    expect(messages()).toEqual(["你好", "在看呀"]);
    expect(stub.requests.map(({ method }) => method)).toEqual(["POST", "POST"]);
    expect(stub.requests[1]?.key).toBe(stub.requests[0]?.key);
  });

  test("that stays away is asked a limited number of times", async () => {
    const { result } = await sendTo(stream(begun(), "break"), breaks);
    expect(result.current.error).toBeInstanceOf(TypeError);
    expect(result.current.status).toBe("error");
    expect(stub.requests).toHaveLength(13);
    // The turn that had begun, and no other.
    await act(() => result.current.regenerate());
    expect(stub.requests.map(({ method }) => method)).toEqual(["POST", ...Array<string>(25).fill("GET")]);
    for (const { url } of stub.requests.slice(1)) expect(url).toContain(`turn_id=${TURN}`);
  });
});

describe("a service that cannot be asked is told, and not waited for", () => {
  const shownError = async () => (await waitFor(() => screen.getByRole("alert"), PATIENCE)).textContent;

  test.each([
    ["has expired", () => signedToken(secret, "user", -60)],
    ["another secret has signed", () => signedToken("another secret, of 32 bytes or more at least", "user")],
    ["is none", () => "token"],
  ])("a token that %s", async (_, make) => {
    token = make();
    render(<Page companion={newCompanion()} />);
    expect(await shownError()).toMatch(/token/i);
  });

  test("a callback for the token that fails", async () => {
    const failing = () => Promise.reject(new Error("signed out"));
    render(<Page companion={new Companion({ url, token: failing, character: CHARACTER })} />);
    expect(await shownError()).toBe("signed out");
  });

  test("no service", async () => {
    proxy = await CuttingProxy.start(url);
    await proxy.stop();
    render(<Page companion={newCompanion()} />);
    expect(await shownError()).toMatch(/^The service cannot be reached \(.+\)\.$/);
  });

  test.each(["", "#url=http://127.0.0.1:9", "#token="])("an address with the fragment %j", async (fragment) => {
    document.body.innerHTML = '<div id="page"></div>';
    history.replaceState(null, "", fragment || "/");
    vi.resetModules();
    await act(() => import("../src/main.tsx"));
    expect(await shownError()).toContain("names no token");
    document.body.innerHTML = "";
    history.replaceState(null, "", "/");
  });

  test("stopping without a network is no error that nobody handles", async () => {
    proxy = await CuttingProxy.start(url);
    const companion = newCompanion();
    await proxy.stop();
    expect(await companion.stop()).toBe(false);
  });
});

/** Makes random pauses short, so that what is tried again and again is given up soon. */
function hurry(): void {
  const wait = setTimeout;
  const hurried = (run: (...rest: unknown[]) => void, ms = 0, ...rest: unknown[]) =>
    wait(run, Number.isInteger(ms) ? ms : ms / 200, ...rest);
  vi.spyOn(globalThis, "setTimeout").mockImplementation(hurried as typeof setTimeout);
}

/** The hook alone, and what is said with it. */
function openHook(companion = newCompanion()) {
  const { result, unmount } = renderHook(() => {
    const chat: UseChatHelpers<Message> = useChat<Message>({
      transport: companion.transport,
      onData: (part) => companion.follow(part, chat.setMessages),
    });
    return chat;
  });
  const say = (text: string, old?: Message) =>
    act(() => result.current.sendMessage({ text, ...(old && { messageId: old.id, metadata: old.metadata }) }));
  const text = ({ parts }: Message) => parts.map((part) => (part.type === "text" ? part.text : "")).join("");
  return { result, say, unmount, messages: () => result.current.messages.map(text) };
}

/** Checks that the page shows this, and that it is what is stored. */
async function isAsStored(expected: string[]): Promise<void> {
  const messages = await stored();
  expect(messages.map(({ content }) => content)).toEqual(expected);
  expect(texts()).toEqual(expected);
  expect(shown().map(({ id }) => id)).toEqual(messages.map(({ msg_id }) => msg_id));
}

/** Opens the page, sends a message, and waits for the first piece of the reply, which is held there. */
async function openInMidReply() {
  const turn = held(["在看", "呀，和你一起。"]);
  await open();
  send(turn.message);
  await shows([turn.message, "在看"]);
  return turn;
}

function newCompanion(): Companion {
  return new Companion({ url: proxy?.url ?? url, token: () => token, character: CHARACTER });
}

/** Opens the page, and waits until it knows whether a turn runs, as any user does who has to type. */
async function open(companion = newCompanion()): Promise<void> {
  const reconnect = vi.spyOn(companion.transport, "reconnectToStream");
  render(<Page companion={companion} />);
  await waitFor(() => screen.getByLabelText("Message"), PATIENCE);
  await waitFor(() => expect(reconnect.mock.settledResults[0]?.type).not.toBe("incomplete"), PATIENCE);
  expect(reconnect).toHaveBeenCalledOnce();
}

function send(text: string): void {
  fireEvent.change(screen.getByLabelText("Message"), { target: { value: text } });
  fireEvent.click(button("Send"));
}

function button(name: string): HTMLButtonElement {
  return screen.getByRole("button", { name });
}

function shown(): HTMLElement[] {
  return [...document.querySelectorAll<HTMLElement>("p[data-role]")];
}

function texts(): string[] {
  return shown().map((element) => element.textContent.trim());
}

async function shows(expected: string[]): Promise<void> {
  await waitFor(() => expect(texts()).toEqual(expected), PATIENCE);
}

async function isReady(): Promise<void> {
  await waitFor(() => expect(button("Stop").disabled).toBe(true), PATIENCE);
}

interface Stored {
  msg_id: string;
  content: string;
  metadata: object | null;
}

async function stored(): Promise<Stored[]> {
  return ((await (await ask("GET", "history")).json()) as { messages: Stored[] }).messages;
}

/** Returns how often the model was asked. */
async function asked(): Promise<number> {
  return (await (await fetch(`${control}/requests/`)).json()) as number;
}

function ask(method: string, resource: string): Promise<Response> {
  const headers = { authorization: `Bearer ${token}` };
  return fetch(`${url}/api/v1/chat/${resource}?character_id=${CHARACTER}`, { method, headers });
}

function script(what: Script): string {
  return JSON.stringify(what);
}

/** A turn whose reply is held before its second piece, or another, until it is released. */
function held(say: string[], before = 1) {
  const name = randomUUID();
  const order = async (what: string): Promise<void> => void (await fetch(`${control}/${what}/${name}`));
  const message = script({ say, hold: { before, name } });
  return { message, isHeld: () => order("held"), release: () => order("release") };
}
