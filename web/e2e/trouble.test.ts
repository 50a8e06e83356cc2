// What a user sees when something fails. No character is lost, and none comes twice.
import { expect, test } from "vitest";
import { until } from "../test/setup/process.ts";
import { stageOfFile, tokenOf } from "./stage.ts";

const stage = await stageOfFile();

test("a reload in mid-reply goes on with the reply", async () => {
  const visit = await stage.open();
  const reply = await visit.beginReply("Tell me a story.", "Once upon ");
  await visit.page.reload();
  await visit.seesSoFar("Once upon ");
  await until("its name is said", async () => (await visit.said()) === "Luna is writing");
  reply.say("a time.");
  await visit.seesSoFar("Once upon a time.");
  reply.end();
  await visit.sees("Once upon a time.");
  expect((await visit.texts()).slice(1)).toEqual(["Tell me a story.", "Once upon a time."]);
  expect(stage.upstream.replies, "it was one turn").toHaveLength(1);
  await visit.page.reload();
  await visit.sees("Once upon a time.");
  expect((await visit.texts()).slice(1)).toEqual(["Tell me a story.", "Once upon a time."]);
});

test("a reload after the end of the reply shows it once", async () => {
  const visit = await stage.open();
  const reply = await visit.beginReply("Bye.", "Good");
  await visit.page.goto("about:blank");
  reply.say("bye.");
  reply.end();
  await visit.page.goto(`${stage.server.origin}/#/luna`);
  await visit.sees("Goodbye.");
  await visit.page.waitForLoadState("networkidle");
  expect((await visit.texts()).slice(1)).toEqual(["Bye.", "Goodbye."]);
});

test.each([
  ["and connections break", true],
  ["as the browser has it", false],
])("five seconds without a network in mid-reply, %s: nothing is lost or doubled", async (_, isCut) => {
  const visit = await stage.open();
  const next = stage.upstream.hold();
  await visit.send("Count to a hundred.");
  const reply = await next();
  const numbers = Array.from({ length: 100 }, (_, index) => `${index + 1}、`);
  for (const number of numbers.slice(0, 30)) reply.say(number);
  await visit.seesSoFar(numbers.slice(0, 30).join(""));
  await visit.context.setOffline(true);
  if (isCut) stage.functions.cut();
  await visit.told(isCut ? "Connection lost. Reconnecting…" : "You are offline");
  for (const number of numbers.slice(30, 60)) reply.say(number);
  // Not for a state: so long the network is gone.
  await visit.page.waitForTimeout(5000);
  stage.functions.restore();
  await visit.context.setOffline(false);
  if (isCut) await visit.page.locator(".line.good").waitFor();
  await visit.seesSoFar(numbers.slice(0, 60).join(""));
  for (const number of numbers.slice(60)) reply.say(number);
  reply.end();
  await visit.sees(numbers.join(""));
  expect(stage.upstream.replies).toHaveLength(1);
  await visit.page.locator(".line:empty").waitFor({ state: "attached" });
});

test("a message that is sent without a network goes when it is back", async () => {
  const visit = await stage.open();
  await visit.page.waitForSelector(".greeting");
  await visit.context.setOffline(true);
  stage.functions.cut();
  await visit.send("Are you there?");
  await visit.page.locator(".line.bad").waitFor();
  stage.functions.restore();
  await visit.context.setOffline(false);
  await visit.sees("你说：Are you there?");
  expect(stage.upstream.replies).toHaveLength(1);
});

test("two tabs of one session show the same, while it streams and after", async () => {
  const first = await stage.open();
  await first.talk("Before.");
  const second = await stage.tab(first);
  await second.sees("你说：Before.");
  const reply = await first.beginReply("Both?", "In both");
  await second.seesSoFar("In both");
  expect(await second.button("Send").isDisabled(), "the other tab waits, too").toBe(true);
  reply.say(" of them.");
  reply.end();
  await first.sees("In both of them.");
  await second.sees("In both of them.");
  const said = ["Before.", "你说：Before.", "Both?", "In both of them."];
  expect((await first.texts()).slice(1)).toEqual(said);
  // The greeting is the first message; the other tab reads it, and the ids of the turn, in the history.
  await until("the other tab shows the same", async () => `${await second.texts()}` === `${await first.texts()}`);
  expect((await second.texts()).slice(1)).toEqual(said);

  stage.upstream.repeat();
  await second.talk("From here.");
  await first.sees("你说：From here.");
  await first.page.bringToFront();
  await first.button("Clear the conversation").click();
  await first.button("Clear").click();
  await second.page.waitForSelector(".greeting");
});

test("two tabs that send at the same time show both turns in the end", async () => {
  const first = await stage.open();
  await first.talk("Before.");
  const second = await stage.tab(first);
  await second.sees("你说：Before.");
  // The request of the first tab is on its way until the second has begun a turn as well.
  let goOn: () => void = () => undefined;
  const mayGoOn = new Promise<void>((done) => (goOn = done));
  await first.page.route("**/chat/stream", async (route) => {
    await mayGoOn;
    await route.continue();
  });
  await first.send("From the first.");
  const toSecond = await second.beginReply("From the second.", "To the second");
  const next = stage.upstream.hold();
  goOn();
  const toFirst = await next();
  toFirst.say("To the first.");
  toFirst.end();
  await until("the first has ended", async () => (await first.texts()).includes("To the first."));
  toSecond.say(", too.");
  toSecond.end();
  const all = "From the first.,To the first.,From the second.,To the second, too.";
  for (const tab of [first, second]) {
    await until("both turns are there", async () => (await tab.texts()).slice(-4).join() === all);
  }
});

test("another browser of the user joins a reply that runs", async () => {
  const first = await stage.open({ user: "two-devices" });
  const reply = await first.beginReply("Here.", "And ");
  const second = await stage.open({ user: "two-devices" });
  await second.seesSoFar("And ");
  reply.say("there.");
  reply.end();
  await second.sees("And there.");
  await until("it shows the message, too", async () => (await second.texts()).slice(1).join() === "Here.,And there.");
});

test("when the link expires the page says how to go on, and goes on", async () => {
  const visit = await stage.open({ user: "late" });
  await visit.page.waitForSelector(".greeting");
  // As if its time had passed: the page gets one that has expired, while it can ask nobody.
  stage.functions.cut();
  await visit.page.evaluate((hash) => (location.hash = hash), `token=${tokenOf("late", -3600)}`);
  await until("the page has taken it", () => !visit.page.url().includes("token="));
  stage.functions.restore();
  await visit.send("Still here?");
  await visit.told("Your link has expired");
  await until("a screen reader is not told that somebody writes", async () => (await visit.said()) === "");
  expect(stage.upstream.replies).toHaveLength(0);
  const token = tokenOf("late");
  await visit.page.evaluate((hash) => (location.hash = hash), `token=${token}`);
  await visit.sees("你说：Still here?");
  expect(await visit.page.getByText("Your link has expired").count()).toBe(0);
  expect(visit.page.url()).not.toContain(token);
  expect(stage.upstream.replies).toHaveLength(1);
});

test("a link that is not valid is not called expired", async () => {
  const forged = `${tokenOf("forger").split(".").slice(0, 2).join(".")}.${"A".repeat(43)}`;
  const visit = await stage.open({ user: "forger", token: forged });
  await visit.told("Your link is not valid any more");
  expect(await visit.page.getByText("expired").count()).toBe(0);
});

test.each([
  ["does not exist", "nope", "This character does not exist."],
  ["cannot be read", "broken", "This character cannot be read."],
])("a character that %s is not talked to", async (_, id, text) => {
  await stage.redis.set("character:broken", "{");
  const visit = await stage.open({ place: id });
  await visit.told(text);
  expect(await visit.box.count()).toBe(0);
  expect(await visit.page.getByText("Say the first words").count()).toBe(0);
  expect(await visit.page.locator(".skip").count(), "nothing leads to the box").toBe(0);
  expect(await visit.page.evaluate(() => document.activeElement?.textContent), "the focus is not lost").toBe(text);
  await visit.page.locator(".entry", { hasText: "Kai" }).click();
  await visit.page.waitForSelector(".greeting");
  await visit.talk("Hello.");
});

test.each([390, 1180])("%d px wide, a message that is too long has the width that it had", async (pixels) => {
  const visit = await stage.open({ viewport: { width: pixels, height: 844 }, place: "luna" });
  await visit.page.waitForSelector(".greeting");
  const width = async (): Promise<number> => (await visit.box.boundingBox())?.width ?? 0;
  const before = await width();
  expect(before).toBeGreaterThan(250);
  await visit.box.fill("a".repeat(2105));
  await visit.told("105 characters too many");
  expect(await width()).toBe(before);
  await visit.box.fill("a".repeat(2001));
  await visit.told("1 character too many");
});

test("a link of another user shows nothing of the one before", async () => {
  const visit = await stage.open();
  await visit.talk("Mine.");
  await visit.box.fill("My draft");
  const token = tokenOf("somebody-else");
  await visit.page.evaluate((hash) => (location.hash = hash), `token=${token}`);
  await visit.page.waitForSelector(".greeting");
  expect(await visit.texts()).toEqual([]);
  expect(await visit.box.inputValue()).toBe("");
});

test("a page that is opened without a network shows no reply that is not there, and catches up", async () => {
  const visit = await stage.open();
  await visit.talk("Before.");
  stage.functions.cut();
  await visit.page.reload();
  await visit.told("The service cannot be reached");
  const refused = stage.functions.refused;
  await until("the page has tried again", () => stage.functions.refused > refused + 2);
  await visit.painted();
  expect(await visit.texts()).toEqual([]);
  stage.functions.restore();
  await visit.sees("你说：Before.");
  const name = visit.page.locator(".entry-name").getByText("Kai", { exact: true });
  expect(await name.count()).toBe(0);
  await visit.page.evaluate(() => dispatchEvent(new Event("online")));
  await name.waitFor();
});

test("a character that could not be read is read again by itself, and greets", async () => {
  const visit = await stage.open();
  await visit.page.waitForSelector(".greeting");
  let isOut = true;
  await visit.page.route("**/character?*character_id=luna*", (route) => (isOut ? route.abort() : route.continue()));
  await visit.page.reload();
  await visit.box.waitFor();
  await visit.page.waitForLoadState("networkidle");
  expect(await visit.page.locator(".greeting").count()).toBe(0);
  isOut = false;
  await visit.page.waitForSelector(".greeting");
});

test("without a link the page says where to find one", async () => {
  const visit = await stage.open();
  await visit.page.evaluate(() => sessionStorage.clear());
  await visit.page.goto("about:blank");
  await visit.page.goto(stage.server.origin);
  await visit.told("Open this page by its link");
});

test("Redis is killed and comes back: the user can talk, and is told what is forgotten", async () => {
  const visit = await stage.open();
  await visit.talk("Remember me.");
  await stage.redis.kill();
  try {
    await visit.talk("Do you?");
    await visit.told("Answered without memory of earlier messages");
    await visit.told("Not saved: the memory is unavailable");
    await visit.page.reload();
    await visit.told("Earlier messages cannot be read at the moment");
    await visit.talk("Hello?");
  } finally {
    await stage.redis.start();
  }
  await visit.page.locator(".line:empty").waitFor({ state: "attached", timeout: 30_000 });
  await visit.talk("And now?");
  expect(await visit.page.locator(".message").last().locator(".note").count()).toBe(0);
});

test("a model that fails before the first word: the message can be sent again", async () => {
  const visit = await stage.open();
  stage.upstream.script((reply) => reply.refuse());
  await visit.send("Hello.");
  await visit.told("Not sent: the model is not available at the moment");
  expect(await visit.said()).toContain("Not sent");
  await visit.page.locator(".entry", { hasText: "Kai" }).click();
  await visit.page.waitForSelector(".greeting");
  expect(await visit.said(), "it is no news in another conversation").toBe("");
  await visit.page.locator(".entry", { hasText: "Luna" }).click();
  stage.upstream.repeat();
  await visit.button("Try again").click();
  await visit.sees("你说：Hello.");
  expect((await visit.texts()).slice(1)).toEqual(["Hello.", "你说：Hello."]);
  await visit.page.reload();
  await visit.sees("你说：Hello.");
  expect((await visit.texts()).slice(1)).toEqual(["Hello.", "你说：Hello."]);
});

test("a message that was not sent is not lost, by a reload or by another message", async () => {
  const visit = await stage.open();
  stage.upstream.script((reply) => reply.refuse());
  await visit.send("Hello.");
  await visit.told("Not sent: the model is not available at the moment");
  await visit.page.reload();
  await visit.told("Not sent: the model is not available at the moment");
  expect((await visit.texts()).at(-1)).toBe("Hello.");
  stage.upstream.repeat();
  await visit.talk("And now?");
  const unsent = visit.page.locator(".message", { hasText: "Hello." });
  expect(await unsent.locator(".note").textContent(), "the other keeps its mark").toBe("Not sent");
});

test("on a phone the list says that the service, or the link, does not work", async () => {
  const phone = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
  const expired = await stage.open({ ...phone, token: tokenOf("phone", -60) });
  await expired.told("Your link has expired");
  expect(await expired.page.getByText("No messages yet").count(), "nobody knows").toBe(0);

  // A character without notes, in whose place the list would say what they say.
  await stage.card("plain", { name: "Plain" });
  stage.server.characters = ["plain"];
  const visit = await stage.open(phone);
  await visit.page.locator(".entry-last", { hasText: "No messages yet" }).waitFor();
  await visit.page.route(`${stage.functions.url}/**`, (route) => route.abort());
  await visit.page.reload();
  await visit.told("The service cannot be reached");
  expect(await visit.page.getByText("No messages yet").count()).toBe(0);
  await visit.page.unroute(`${stage.functions.url}/**`);
  await visit.page.locator(".entry-last", { hasText: "No messages yet" }).waitFor();
  await visit.page.locator(".line.bad").waitFor({ state: "detached" });
});

test("a model that dies in mid-reply: what was said is kept, and marked", async () => {
  const visit = await stage.open();
  const reply = await visit.beginReply("Hello.", "Half of");
  reply.break();
  await visit.sees("Half of");
  await visit.told("The reply broke off here");
  expect((await visit.texts()).slice(1)).toEqual(["Hello.", "Half of"]);
  await visit.page.reload();
  await visit.told("The reply broke off here");
});

test("a failed edit leaves what was there", async () => {
  const visit = await stage.open();
  await visit.talk("One.");
  stage.upstream.script((reply) => reply.refuse());
  await visit.button("Another reply").click();
  await visit.told("That did not work");
  expect((await visit.texts()).slice(1)).toEqual(["One.", "你说：One."]);
});

test("the function is killed in mid-reply: the page asks again, and nothing is said twice", async () => {
  const visit = await stage.open();
  await visit.beginReply("Hello.", "Half of");
  stage.upstream.repeat();
  await stage.functions.kill("chat-stream");
  await visit.told("Connection lost. Reconnecting…");
  await stage.functions.startAgain("chat-stream");
  await visit.told("the process that wrote it died", 30_000);
  await visit.button("Try again").click();
  await visit.sees("你说：Hello.");
  expect((await visit.texts()).slice(1)).toEqual(["Hello.", "你说：Hello."]);
  await until("it is stored once", async () => {
    await visit.page.reload();
    await visit.sees("你说：Hello.");
    return (await visit.texts()).length === 3;
  });
}, 90_000);

test("only a page of the allowed origin may read what the functions answer", async () => {
  // Without a header of its own, a request needs no leave of the gateway: what the browser hides is up to the function.
  const outcomeAt = async (origin: string, headers: Record<string, string>): Promise<unknown> => {
    const context = await stage.browser.newContext();
    try {
      const page = await context.newPage();
      await page.goto(`${origin}/icon.svg`);
      const ask = async ({ url, headers }: { url: string; headers: Record<string, string> }): Promise<unknown> =>
        fetch(`${url}/api/v1/chat/sessions`, { headers }).then((response) => response.status, String);
      return await page.evaluate(ask, { url: stage.functions.url, headers });
    } finally {
      await context.close();
    }
  };
  const allowed = stage.server.origin;
  // The same server by another name.
  const other = allowed.replace("127.0.0.1", "localhost");
  const token = { authorization: `Bearer ${tokenOf("anyone")}` };
  expect(await outcomeAt(allowed, {})).toBe(401);
  expect(await outcomeAt(allowed, token)).toBe(200);
  stage.functions.asked.length = 0;
  expect(await outcomeAt(other, {})).toBe("TypeError: Failed to fetch");
  expect(stage.functions.asked, "the function has answered").toEqual(["GET /api/v1/chat/sessions"]);
  expect(await outcomeAt(other, token)).toBe("TypeError: Failed to fetch");
});
