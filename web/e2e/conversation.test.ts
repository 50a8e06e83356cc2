// What a user does when nothing is wrong.
import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { until } from "../test/setup/process.ts";
import { stageOfFile } from "./stage.ts";

const stage = await stageOfFile();

test("a first conversation: the greeting, a reply that streams, and a character that remembers", async () => {
  const visit = await stage.open();
  await visit.page.waitForSelector(".greeting");
  expect(new URL(visit.page.url()).hash, "the token has left the address").toBe("#/luna");
  const greeting = await visit.page.locator(".greeting .body").textContent();
  expect(greeting).toContain("末班船");

  const next = stage.upstream.hold();
  await visit.send("I like rain.");
  const reply = await next();
  expect(
    reply.messages.map((message) => message.content),
    "the model sees what the user saw",
  ).toContain(greeting);
  reply.say("So do");
  await visit.seesSoFar("So do");
  expect(await visit.page.locator(".body.live").count(), "there is a caret").toBe(1);
  reply.say(" I.");
  reply.end();
  await visit.sees("So do I.");
  expect(await visit.texts()).toEqual([greeting, "I like rain.", "So do I."]);
  expect(await visit.said(), "a screen reader hears it whole").toBe("Luna: So do I.");
  await until(
    "the list shows it",
    async () => (await visit.page.locator(".entry-last").first().textContent()) === "So do I.",
  );

  const second = visit.send("What do I like?");
  const remembers = await next();
  await second;
  expect(remembers.messages.map((message) => message.content)).toContain("I like rain.");
  remembers.say("Rain.");
  remembers.end();
  await visit.sees("Rain.");

  await visit.page.reload();
  await visit.sees("Rain.");
  expect(await visit.texts()).toEqual([greeting, "I like rain.", "So do I.", "What do I like?", "Rain."]);
});

test("the greeting that the user chose begins the conversation", async () => {
  const visit = await stage.open();
  await visit.page.locator(".other").click();
  const greeting = await visit.page.locator(".greeting .body").textContent();
  expect(greeting).toContain("起雾了");
  await visit.talk("Fog!");
  await visit.page.reload();
  await visit.sees("你说：Fog!");
  expect(await visit.texts()).toEqual([greeting, "Fog!", "你说：Fog!"]);
});

test("a character without a first message is spoken to first", async () => {
  await stage.card("quiet", { name: "Quiet" });
  const visit = await stage.open({ place: "quiet" });
  await visit.told("Say the first words to Quiet.");
  expect(await visit.page.locator(".greeting").count()).toBe(0);
  await visit.box.fill("Hello.");
  await visit.box.press("Enter");
  await visit.sees("你说：Hello.");
  await visit.page.reload();
  await visit.sees("你说：Hello.");
  expect(await visit.texts()).toEqual(["Hello.", "你说：Hello."]);
});

test("blank greetings are skipped, and the others keep their numbers", async () => {
  await stage.card("late", { name: "Late", alternate_greetings: ["One.", " \n", "Two."] });
  const visit = await stage.open({ place: "late" });
  await visit.told("One.");
  const other = visit.page.locator(".other .count");
  expect(await other.textContent()).toBe("1/2");
  await visit.page.locator(".other").click();
  await visit.told("Two.");
  expect(await other.textContent()).toBe("2/2");
  await visit.page.locator(".other").click();
  await visit.told("One.");
  await visit.page.locator(".other").click();
  await visit.talk("Hello.");
  await visit.page.reload();
  await visit.sees("你说：Hello.");
  expect(await visit.texts()).toEqual(["Two.", "Hello.", "你说：Hello."]);
});

test("a long greeting is read from its beginning, and what follows it from its end", async () => {
  await stage.card("long", { name: "Long", first_mes: "A line.\n".repeat(200) });
  const visit = await stage.open({ place: "long" });
  await visit.page.waitForSelector(".greeting");
  await visit.painted();
  const scroller = visit.page.locator(".scroller");
  const below = (): Promise<number> =>
    scroller.evaluate((view) => view.scrollHeight - view.scrollTop - view.clientHeight);
  expect(await scroller.evaluate((view) => view.scrollTop)).toBe(0);
  expect(await below()).toBeGreaterThan(1000);
  await visit.talk("Hello.");
  await until("the reply is in view", async () => (await below()) < 48);
});

test("what comes between a frame and its event of scrolling is followed", async () => {
  const visit = await stage.open();
  for (let turn = 0; turn < 5; turn += 1) await visit.talk(`${turn}\n\nIt fills the window.`);
  // The box grew with the text and shrank with Enter, so that the view moved; its event comes after the message.
  await visit.page.evaluate(() => {
    const last = document.querySelector<HTMLElement>(".messages .message:last-child");
    if (last) last.style.paddingBottom = "400px";
    document.querySelector(".scroller")?.dispatchEvent(new Event("scroll"));
  });
  await visit.painted();
  const below = await visit.page.locator(".scroller").evaluate((view) => view.scrollHeight - view.scrollTop - view.clientHeight);
  expect(below).toBeLessThan(48);
});

test("on a phone the buttons of an edit stand in one row", async () => {
  const visit = await stage.open({ viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, place: "luna" });
  await visit.page.waitForSelector(".greeting");
  await visit.box.fill("Hello.");
  await visit.button("Send").tap();
  await visit.sees("你说：Hello.");
  await visit.page.locator(".message.user").tap();
  await visit.page.locator(".message.user [data-icon=edit]").tap();
  const tops = await visit.page.locator(".editor-foot button").evaluateAll((all) => all.map((one) => one.getBoundingClientRect().top));
  expect(tops).toHaveLength(2);
  expect(tops[0]).toBe(tops[1]);
});

test("a double click on send is one turn", async () => {
  const visit = await stage.open();
  const next = stage.upstream.hold();
  await visit.box.fill("Once.");
  await visit.button("Send").dblclick();
  const reply = await next();
  reply.say("Once.");
  reply.end();
  await visit.sees("Once.");
  expect((await visit.texts()).filter((text) => text === "Once.")).toHaveLength(2);
  expect(stage.functions.asked.filter((route) => route === "POST /api/v1/chat/stream")).toHaveLength(1);
  expect(stage.functions.asked, "the second click stopped nothing").not.toContain("DELETE /api/v1/chat/stream");
});

test("stop keeps what was said", async () => {
  const visit = await stage.open();
  await visit.beginReply("Count.", "One, two,");
  await visit.button("Stop").click();
  await visit.sees("One, two,");
  await visit.told("You stopped it here");
  await visit.page.reload();
  await visit.told("You stopped it here");
  expect(await visit.reply()).toBe("One, two,");
});

test("stopping before the first word gives the message back", async () => {
  const visit = await stage.open();
  const next = stage.upstream.hold();
  await visit.send("Never mind.");
  await next();
  await visit.button("Stop").click();
  await visit.told("No reply came");
  await visit.button("Dismiss").click();
  expect(await visit.box.inputValue()).toBe("Never mind.");
  await visit.page.waitForSelector(".greeting");
});

test("regenerate puts another reply in the place of the last", async () => {
  const visit = await stage.open();
  await visit.talk("Say something.");
  stage.upstream.answer("Something else.");
  await visit.button("Another reply").click();
  await visit.sees("Something else.");
  expect((await visit.texts()).slice(1)).toEqual(["Say something.", "Something else."]);
  await visit.page.reload();
  await visit.sees("Something else.");
  expect((await visit.texts()).slice(1)).toEqual(["Say something.", "Something else."]);
});

test("an edit replaces the message and all that follows", async () => {
  const visit = await stage.open();
  for (const text of ["One.", "Two.", "Three."]) {
    await visit.talk(text);
  }
  const second = visit.page.locator(".message.user", { hasText: "Two." });
  await second.hover();
  await second.getByRole("button", { name: "Edit" }).click();
  const editor = visit.page.getByLabel("Edit your message");
  await editor.fill("Two and a half.");
  await editor.press("Enter");
  await visit.sees("你说：Two and a half.");
  const expected = ["One.", "你说：One.", "Two and a half.", "你说：Two and a half."];
  expect((await visit.texts()).slice(1)).toEqual(expected);
  await visit.page.reload();
  await visit.sees("你说：Two and a half.");
  expect((await visit.texts()).slice(1)).toEqual(expected);
});

test("delete from here asks first, and then the rest is gone", async () => {
  const visit = await stage.open();
  for (const text of ["One.", "Two."]) {
    await visit.talk(text);
  }
  const second = visit.page.locator(".message.user", { hasText: "Two." });
  await second.hover();
  await second.getByRole("button", { name: "Delete from here" }).click();
  await visit.page.getByRole("dialog", { description: "This cannot be undone." }).waitFor();
  await visit.page.keyboard.press("Escape");
  expect(await visit.texts()).toHaveLength(5);
  await second.hover();
  await second.getByRole("button", { name: "Delete from here" }).click();
  await visit.button("Delete").click();
  await visit.sees("你说：One.");
  await visit.page.reload();
  await visit.sees("你说：One.");
  expect((await visit.texts()).slice(1)).toEqual(["One.", "你说：One."]);
});

test("clear asks first, and then the character greets anew", async () => {
  const visit = await stage.open();
  await visit.talk("Forget this.");
  await visit.button("Clear the conversation").click();
  await visit.button("Clear").click();
  await visit.page.waitForSelector(".greeting");
  await visit.page.reload();
  await visit.page.waitForSelector(".greeting");
  expect(await visit.texts()).toEqual([]);
});

test("a screen reader is not told again of what is gone, or of another conversation", async () => {
  const visit = await stage.open();
  await visit.talk("One.");
  await until("the reply is said", async () => (await visit.said()) === "Luna: 你说：One.");
  await visit.page.locator(".entry", { hasText: "Kai" }).click();
  await visit.page.waitForSelector(".greeting");
  expect(await visit.said(), "in another conversation").toBe("");

  const reply = await visit.beginReply("Two.", "Later");
  expect(await visit.said()).toBe("Kai is writing");
  await visit.page.locator(".entry", { hasText: "Luna" }).click();
  await visit.sees("你说：One.");
  reply.end();
  await until(
    "the list shows the reply of the other",
    async () => (await visit.page.locator(".entry-last").first().textContent()) === "Later",
  );
  expect(await visit.said(), "of another conversation").toBe("");

  stage.upstream.repeat();
  await visit.talk("Three.");
  await until("the reply is said", async () => (await visit.said()) === "Luna: 你说：Three.");
  await visit.page.locator(".message.user").last().hover();
  await visit.page.locator(".message.user [data-icon=trash]").last().click();
  await visit.button("Delete").click();
  await visit.sees("你说：One.");
  await until("nothing is said after a deletion", async () => (await visit.said()) === "");

  await visit.talk("Four.");
  await until("the reply is said", async () => (await visit.said()) === "Luna: 你说：Four.");
  await visit.button("Clear the conversation").click();
  await visit.button("Clear").click();
  await visit.page.waitForSelector(".greeting");
  await until("nothing is said after a clear", async () => (await visit.said()) === "");
});

test("older messages come in while the user scrolls up, and nothing jumps", async () => {
  const user = `user-${randomUUID()}`;
  const client = stage.client(user);
  for (let number = 1; number <= 45; number += 1) {
    for await (const event of client.send("luna", `Number ${number}.`)) if (event.type === "done") break;
  }
  const visit = await stage.open({ user });
  await visit.sees("你说：Number 45.");
  const first = await visit.page.locator(".message.user .body").first().textContent();
  expect(first, "only the newest page is there").not.toBe("Number 1.");

  const scroller = visit.page.locator(".scroller");
  const box = await scroller.boundingBox();
  await visit.page.mouse.move((box?.x ?? 0) + 300, (box?.y ?? 0) + 300);
  // Where a message is that is in view, before and after the page above it comes.
  await scroller.evaluate((view) => (view.scrollTop = 900));
  await visit.painted();
  const marked = await visit.page.evaluate(() => {
    const found = [...document.querySelectorAll(".message .body")].find((one) => one.getBoundingClientRect().top > 200);
    found?.setAttribute("id", "marked");
    return found?.getBoundingClientRect().top ?? 0;
  });
  const before = await visit.page.locator(".message").count();
  await visit.page.mouse.wheel(0, -150);
  await visit.page.waitForFunction((count) => document.querySelectorAll(".message").length > count, before);
  await visit.painted();
  const after = await visit.page.locator("#marked").evaluate((one) => one.getBoundingClientRect().top);
  expect(Math.abs(after - marked - 150), `moved from ${marked} to ${after}`).toBeLessThan(3);

  await until("the first message is there", async () => {
    await visit.page.mouse.wheel(0, -2000);
    return visit.page.getByText("Number 1.", { exact: true }).count();
  });
  const texts = await visit.texts();
  const asked = texts.filter((text) => text.startsWith("Number"));
  expect(asked).toEqual(Array.from({ length: 45 }, (_, index) => `Number ${index + 1}.`));
});

test("what a model says is text, never markup", async () => {
  const visit = await stage.open();
  const evil =
    '<img src=x onerror="document.title=1"><script>document.title=2</script><b>bold</b> **bold** [a](javascript:1)';
  stage.upstream.answer(evil);
  await visit.send("<i>me too</i>");
  await visit.sees(evil);
  expect(await visit.page.title()).toBe("Luna · companion-chat");
  expect(await visit.page.locator(".messages :is(img, script, b, i, a)").count()).toBe(0);
});

test("Chinese browsers read Chinese", async () => {
  const visit = await stage.open({ locale: "zh-CN" });
  await visit.page.waitForSelector(".greeting");
  expect(await visit.page.locator("html").getAttribute("lang")).toBe("zh-CN");
  await visit.box.fill("你好");
  await visit.button("发送").click();
  await visit.sees("你说：你好");
  await visit.button("换一个回复").waitFor();
});

test.each([
  ["in Chrome and Firefox, while it is composed", { isComposing: true, keyCode: 13 }, false],
  ["in Safari, after its composition has ended", { isComposing: false, keyCode: 229 }, true],
])("the Enter that chooses a Chinese word sends nothing: %s", async (_, event, endsBefore) => {
  const visit = await stage.open();
  const client = await visit.context.newCDPSession(visit.page);
  await visit.page.waitForSelector(".greeting");
  const choose = async (written: string): Promise<void> => {
    await client.send("Input.imeSetComposition", { text: "nihao", selectionStart: 5, selectionEnd: 5 });
    if (endsBefore) await client.send("Input.insertText", { text: written });
    await visit.page.locator(":focus").dispatchEvent("keydown", { key: "Enter", ...event });
    if (!endsBefore) await client.send("Input.insertText", { text: written });
  };
  await visit.box.focus();
  await choose("你好");
  expect(await visit.box.inputValue(), "it is still there").toBe("你好");
  await visit.box.press("Enter");
  await visit.sees("你说：你好");
  expect((await visit.texts()).slice(1)).toEqual(["你好", "你说：你好"]);

  await visit.page.locator(".message.user").hover();
  await visit.page.locator(".message.user [data-icon=edit]").click();
  const editor = visit.page.getByLabel("Edit your message");
  await editor.fill("");
  await choose("再见");
  expect(await editor.inputValue(), "it is still edited").toBe("再见");
  await editor.press("Enter");
  await visit.sees("你说：再见");
  expect((await visit.texts()).slice(1)).toEqual(["再见", "你说：再见"]);

  await visit.beginReply("一", "二");
  await visit.page.locator(":focus").dispatchEvent("keydown", { key: "Escape", ...event });
  await visit.painted();
  expect(await visit.page.locator(".stop").textContent(), "Esc has only ended the composition").toBe("Stop");
});

test("by keyboard alone: choose a character, talk, stop, edit, clear", async () => {
  const visit = await stage.open();
  const { keyboard } = visit.page;
  const focused = (): Promise<string> =>
    visit.page.evaluate(() => {
      const one = document.activeElement;
      return one?.getAttribute("aria-label") ?? one?.textContent ?? "";
    });
  const tabTo = async (name: RegExp, key = "Tab"): Promise<void> => {
    for (let count = 0; count < 40; count += 1) {
      if (name.test(await focused())) return;
      await keyboard.press(key);
    }
    throw new Error(`no way to ${name} by ${key}`);
  };
  await visit.page.waitForSelector(".greeting");
  await tabTo(/^KKai/, "Shift+Tab");
  await keyboard.press("Enter");
  await visit.page.getByRole("heading", { name: "Kai", level: 1 }).waitFor();
  await tabTo(/Message Kai/);
  const next = stage.upstream.hold();
  await keyboard.type("Hello");
  await keyboard.press("Enter");
  const reply = await next();
  reply.say("Hi");
  await visit.seesSoFar("Hi");
  await keyboard.press("Escape");
  await visit.told("You stopped it here");
  stage.upstream.repeat();

  await tabTo(/^Edit$/, "Shift+Tab");
  await keyboard.press("Enter");
  await keyboard.type(" again");
  await keyboard.press("Enter");
  await visit.sees("你说：Hello again");

  await tabTo(/Clear the conversation/, "Shift+Tab");
  await keyboard.press("Enter");
  await tabTo(/^Clear$/);
  await keyboard.press("Enter");
  await visit.page.waitForSelector(".greeting");
});

test("the page opens the conversation that the user was in last", async () => {
  const visit = await stage.open();
  await visit.page.locator(".entry", { hasText: "Kai" }).click();
  await visit.page.getByRole("heading", { name: "Kai", level: 1 }).waitFor();
  await visit.talk("Hi.");
  const tab = await stage.tab(visit);
  await tab.sees("你说：Hi.");
  await tab.page.getByRole("heading", { name: "Kai", level: 1 }).waitFor();

  // However late the list comes, and whether or not it is known which characters to offer.
  let answer = (): void => undefined;
  const answered = new Promise<void>((resolve) => (answer = resolve));
  const asked: string[] = [];
  await tab.page.route("**/config.json", () => undefined);
  await tab.page.route("**/chat/sessions?*", (route) => answered.then(() => route.continue()));
  tab.page.on("request", (request) => asked.push(request.url()));
  await tab.page.goto("about:blank");
  await tab.page.goto(stage.server.origin, { waitUntil: "commit" });
  await tab.page.getByRole("heading", { name: "Characters", level: 1 }).waitFor();
  // Not for a state: so late the list comes.
  await tab.page.waitForTimeout(1500);
  expect(await tab.page.locator(".room").count()).toBe(0);
  answer();
  await tab.sees("你说：Hi.");
  await tab.page.getByRole("heading", { name: "Kai", level: 1 }).waitFor();
  const histories = asked.filter((url) => url.includes("/chat/history"));
  expect(histories.map((url) => new URL(url).searchParams.get("character_id"))).toEqual(["kai"]);
});

test("nothing but the list waits for the characters that are offered", async () => {
  const visit = await stage.open({ place: "luna" });
  await visit.page.route("**/config.json", () => undefined);
  await visit.page.reload({ waitUntil: "commit" });
  await visit.page.waitForSelector(".greeting");
  await visit.page.getByRole("heading", { name: "Luna", level: 1 }).waitFor();
  await visit.page.getByRole("heading", { name: "Characters", level: 2 }).waitFor();
  expect(await visit.page.locator(".entry").count()).toBe(0);
  await visit.talk("Hello.");
  await visit.page.locator(".entry", { hasText: "Luna" }).waitFor();

  await visit.page.evaluate(() => sessionStorage.clear());
  await visit.page.goto("about:blank");
  await visit.page.goto(stage.server.origin, { waitUntil: "commit" });
  await visit.told("Open this page by its link");
});

test("a character is asked for when the user sees it in the list", async () => {
  const many = Array.from({ length: 200 }, (_, index) => `many-${index}`);
  await stage.card("many-199", { name: "The Last" });
  stage.server.characters = ["luna", ...many];
  const visit = await stage.open();
  const asked = (): number => stage.functions.asked.filter((route) => route === "GET /api/v1/chat/character").length;
  await visit.page.waitForSelector(".greeting");
  await visit.page.waitForLoadState("networkidle");
  expect(await visit.page.locator(".entry").count()).toBe(201);
  expect(asked()).toBeLessThan(30);
  await visit.page.locator(".entry", { hasText: "many-199" }).scrollIntoViewIfNeeded();
  await visit.page.locator(".entry", { hasText: "The Last" }).waitFor();
  expect(asked()).toBeLessThan(60);
});

test("while the page is loaded, nothing is asked for twice", async () => {
  const visit = await stage.open();
  await visit.talk("Hello.");
  const asked: string[] = [];
  visit.page.on("request", (request) => asked.push(`${request.method()} ${request.url()}`));
  await visit.page.reload();
  await visit.sees("你说：Hello.");
  await visit.page.waitForLoadState("networkidle");
  expect(asked.filter((one) => one.includes("/chat/history"))).toHaveLength(1);
  expect(asked.filter((one, index) => asked.indexOf(one) !== index)).toEqual([]);
});

test("on a phone the list and a conversation take turns, and back goes back", async () => {
  const visit = await stage.open({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  await visit.page.locator(".entry", { hasText: "Mei" }).tap();
  await visit.page.waitForSelector(".greeting");
  expect(await visit.page.locator(".shelf").isVisible()).toBe(false);
  await visit.box.fill("Hi");
  await visit.button("Send").tap();
  await visit.sees("你说：Hi");
  const width = await visit.page.evaluate(() => document.documentElement.scrollWidth);
  expect(width, "nothing is wider than the screen").toBeLessThanOrEqual(390);
  await visit.box.fill("More");
  await visit.button("Send").tap();
  await visit.sees("你说：More");
  await visit.page.locator(".message.reply").nth(2).waitFor();
  // The first turn hides its buttons until it is touched.
  const first = visit.page.locator(".message.user").first();
  expect(await first.locator(".actions").evaluate((one) => getComputedStyle(one).pointerEvents)).toBe("none");
  await first.locator(".body").tap();
  await first.getByRole("button", { name: "Edit" }).tap();
  await visit.page.getByLabel("Edit your message").waitFor();
  await visit.button("Cancel").tap();
  await visit.page.goBack();
  await visit.page.locator(".shelf").waitFor();
});
