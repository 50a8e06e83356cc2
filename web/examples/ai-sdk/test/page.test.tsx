/** The page and the real hook, against the real functions. */

import { randomUUID } from "node:crypto";

import { useChat, type UseChatHelpers } from "@ai-sdk/react";
import { act, cleanup, fireEvent, render, renderHook, screen, waitFor } from "@testing-library/react";
import { afterEach, beforeEach, expect, inject, test } from "vitest";

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

beforeEach(() => {
  token = signedToken(secret, `user-${randomUUID()}`);
});

afterEach(() => {
  cleanup();
  sessionStorage.clear();
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
  const companion = newCompanion();
  const { result } = renderHook(() => {
    const chat: UseChatHelpers<Message> = useChat<Message>({
      transport: companion.transport,
      onData: (part) => companion.follow(part, chat.setMessages),
    });
    return chat;
  });
  const say = (text: string, old?: Message) =>
    act(() => result.current.sendMessage({ text, ...(old && { messageId: old.id, metadata: old.metadata }) }));
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

/** Opens the page, sends a message, and waits for the first piece of the reply, which is held there. */
async function openInMidReply() {
  const turn = held(["在看", "呀，和你一起。"]);
  await open();
  send(turn.message);
  await shows([turn.message, "在看"]);
  return turn;
}

function newCompanion(): Companion {
  return new Companion({ url, token: () => token, character: CHARACTER });
}

async function open(companion = newCompanion()): Promise<void> {
  render(<Page companion={companion} />);
  await waitFor(() => screen.getByLabelText("Message"), PATIENCE);
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

/** A turn whose reply is held before its second piece, until it is released. */
function held(say: string[]) {
  const name = randomUUID();
  const order = async (what: string): Promise<void> => void (await fetch(`${control}/${what}/${name}`));
  return { message: script({ say, hold: { before: 1, name } }), release: () => order("release") };
}
