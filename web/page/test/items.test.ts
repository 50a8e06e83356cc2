// How a transcript takes in what is stored: see page/src/items.ts.
import { expect, test } from "vitest";
import { greetingsOf, type Item, local, merged, type Message, withOlder } from "../src/items.ts";

const message = (id: string, role: "user" | "assistant", content = id): Message => {
  return { msg_id: id, role, content, timestamp: 1, token_count: 1, metadata: null };
};
/** Turns 1 to `count`, of which each has a message `u1` and a reply `a1`. */
const turns = (first: number, last: number): Message[] =>
  Array.from({ length: last - first + 1 }, (_, index) => first + index).flatMap((number) => [
    message(`u${number}`, "user"),
    message(`a${number}`, "assistant"),
  ]);
const texts = (items: readonly Item[]): string[] => items.map((item) => item.prose.text);

test("a message that is shown keeps its item, so that it is not drawn again", () => {
  const { items } = merged([], turns(1, 2), false);
  const again = merged(items, turns(1, 3), false).items;
  expect(again.slice(0, 4)).toEqual(items);
  again.slice(0, 4).forEach((item, index) => expect(item).toBe(items[index]));
});

test("what is no longer stored goes", () => {
  const { items } = merged([], turns(1, 3), false);
  expect(texts(merged(items, turns(1, 1), false).items)).toEqual(["u1", "a1"]);
  expect(merged(items, [], false).items).toEqual([]);
});

test("older pages stay while the newest page continues them, and go if it does not", () => {
  const shown = withOlder(merged([], turns(3, 4), true).items, turns(1, 2));
  const continued = merged(shown, turns(3, 5), true);
  expect(continued.keepsOlder).toBe(true);
  expect(texts(continued.items)).toEqual(["u1", "a1", "u2", "a2", "u3", "a3", "u4", "a4", "u5", "a5"]);
  const apart = merged(shown, turns(50, 51), true);
  expect(apart.keepsOlder).toBe(false);
  expect(texts(apart.items)).toEqual(["u50", "a50", "u51", "a51"]);
});

test("what was never stored stays behind the message that it followed", () => {
  const { items } = merged([], turns(1, 1), false);
  const unsaved = [local("user", "lost"), local("assistant", "lost, too")];
  const after = merged([...items, ...unsaved], turns(1, 2), false).items;
  expect(texts(after)).toEqual(["u1", "a1", "lost", "lost, too", "u2", "a2"]);
});

test("what the page has asked for gives way to what is stored of it", () => {
  const { items } = merged([], turns(1, 1), false);
  const more = { requestKey: "key" };
  const shown = [...items, local("user", "u2", more), local("assistant", "a2", more), local("user", "lost")];
  const [u2, a2] = turns(2, 2);
  const page = [...turns(1, 1), { ...u2, metadata: { key: "key" } }, a2] as Message[];
  const after = merged(shown, page, false).items;
  expect(after.map(({ id, prose }) => [id, prose.text])).toEqual([
    ["u1", "u1"],
    ["a1", "a1"],
    [null, "lost"],
    ["u2", "u2"],
    ["a2", "a2"],
  ]);
});

test("a reply that is written stays at the end", () => {
  const { items } = merged([], turns(1, 1), false);
  const live = local("assistant", "so far", { live: true });
  expect(texts(merged([...items, live], turns(1, 2), false).items)).toEqual(["u1", "a1", "u2", "a2", "so far"]);
});

test("a greeting that was shown before it was stored is there once, and keeps its place on the screen", () => {
  const greeting = local("assistant", "Welcome.");
  const shown = [greeting, ...merged([], turns(1, 1), false).items];
  const { items } = merged(shown, [message("g", "assistant", "Welcome."), ...turns(1, 1)], false);
  expect(texts(items)).toEqual(["Welcome.", "u1", "a1"]);
  expect(items[0]).toMatchObject({ id: "g", key: greeting.key });
  expect(items[0]?.prose).toBe(greeting.prose);
});

test("greetings that are not blank keep their numbers", () => {
  expect(greetingsOf([""])).toEqual([]);
  expect(greetingsOf(["", "One.", " \n", "Two."])).toEqual([
    { number: 1, text: "One." },
    { number: 3, text: "Two." },
  ]);
});

test("a page that is read twice adds nothing", () => {
  const { items } = merged([], turns(3, 4), true);
  const once = withOlder(items, turns(1, 2));
  expect(withOlder(once, turns(1, 2))).toEqual(once);
});

test("a reply says how it ended", () => {
  const stopped = { ...message("a", "assistant"), metadata: { finish_reason: "stopped" } };
  const broken = { ...message("b", "assistant"), metadata: { finish_reason: "interrupted" } };
  const { items } = merged([], [stopped, broken, message("c", "assistant")], false);
  expect(items.map((item) => item.notes)).toEqual([["endedStopped"], ["endedError"], []]);
});
