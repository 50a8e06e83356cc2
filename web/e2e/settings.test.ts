// What a user sets, takes along and erases.
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { until } from "../test/setup/process.ts";
import { stageOfFile, type Visit } from "./stage.ts";

const stage = await stageOfFile();

async function openSettings(visit: Visit): Promise<void> {
  await visit.button("Settings").click();
  await visit.page.getByRole("dialog", { name: "Settings" }).waitFor();
}

async function isCalled(visit: Visit, name: string): Promise<void> {
  await openSettings(visit);
  await visit.page.getByLabel("Your name").fill(name);
  await visit.page.keyboard.press("Enter");
  await visit.page.getByRole("dialog").waitFor({ state: "detached" });
}

test("a character calls the user by the name that the user has set", async () => {
  await stage.card("host", {
    name: "Host",
    first_mes: "Welcome, {{user}}.",
    system_prompt: "You talk to {{user}}.",
  });
  const visit = await stage.open({ place: "host" });
  await visit.told("Welcome, User.");
  await isCalled(visit, " Ada 小雨 ");
  await visit.told("Welcome, Ada 小雨.");
  expect(await visit.page.evaluate(() => document.activeElement?.getAttribute("aria-label"))).toBe("Settings");

  await visit.beginReply("Hello.", "Hello, ");
  expect(stage.upstream.replies[0]?.messages[0]?.content).toContain("You talk to Ada 小雨.");
  // The same request with another name would be refused.
  await visit.page.reload();
  await visit.seesSoFar("Hello, ");
  await isCalled(visit, "Grace");
  await visit.page.reload();
  await visit.seesSoFar("Hello, ");
  expect(stage.upstream.replies, "it is one turn").toHaveLength(1);

  const tab = await stage.tab(visit);
  // It may be old when the news comes: nothing puts the two in order.
  await visit.page.evaluate(() => void (Storage.prototype.getItem = () => "Grace"));
  await isCalled(tab, "");
  await visit.page.bringToFront();
  await until("the other tab has heard of it", async () => {
    await openSettings(visit);
    const name = await visit.page.getByLabel("Your name").inputValue();
    await visit.button("Close").click();
    return name === "";
  });
});

test("a character that was asked for under the name of before is asked for again", async () => {
  const visit = await stage.open();
  const asked: string[] = [];
  let answer = (): void => {};
  const answered = new Promise<void>((resolve) => (answer = resolve));
  await visit.page.route("**/character?*character_id=kai*", async (route) => {
    asked.push(new URL(route.request().url()).search);
    await answered;
    await route.continue();
  });
  await visit.page.reload();
  await visit.page.waitForSelector(".greeting");
  await until("Kai is asked for", () => asked.length > 0);
  await isCalled(visit, "Ada");
  answer();
  await visit.page.locator(".entry-name").getByText("Kai", { exact: true }).waitFor();
  expect(asked[0]).not.toContain("Ada");
  expect(asked.at(-1)).toContain("Ada");
});

test("a name that the functions refuse cannot be saved", async () => {
  const visit = await stage.open();
  await openSettings(visit);
  const name = visit.page.getByLabel("Your name");
  for (const bad of ["a".repeat(65), "\u200b"]) {
    await name.fill(bad);
    expect(await visit.button("Save").isDisabled(), bad).toBe(true);
    expect(await name.getAttribute("aria-invalid")).toBe("true");
  }
  await name.fill("雨".repeat(64));
  await visit.button("Save").click();
  await visit.talk("Hello.");
});

test("the name of one user is not that of another in the same browser", async () => {
  const visit = await stage.open();
  await isCalled(visit, "Ada");
  const other = await stage.tab(visit, "somebody-else");
  await openSettings(other);
  expect(await other.page.getByLabel("Your name").inputValue()).toBe("");
});

test("the user's data is downloaded as one file", async () => {
  const visit = await stage.open();
  await visit.talk("Hello.");
  await openSettings(visit);
  const [download] = await Promise.all([visit.page.waitForEvent("download"), visit.button("Download").click()]);
  expect(download.suggestedFilename()).toMatch(/^companion-chat-\d{4}-\d{2}-\d{2}\.ndjson$/);
  const text = await readFile(await download.path(), "utf8");
  expect(text.endsWith("\n")).toBe(true);
  const lines = text.trimEnd().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines.map((line) => line["type"])).toEqual(["session", "message", "message", "message", "turn", "end"]);
  expect(lines.map((line) => line["content"])).toContain("你说：Hello.");
});

test("what does not work is said in the settings", async () => {
  const visit = await stage.open();
  await visit.talk("Hello.");
  stage.functions.cut();
  await openSettings(visit);
  await visit.button("Download").click();
  const trouble = visit.page.getByRole("dialog").getByRole("alert").getByText("the service cannot be reached");
  await trouble.waitFor();
  await visit.button("Erase everything").click();
  await visit.button("Erase").click();
  await trouble.waitFor();
  stage.functions.restore();
  await visit.button("Close").click();
  expect((await visit.texts()).slice(1)).toEqual(["Hello.", "你说：Hello."]);
});

test("to erase everything asks first, and then the page is as for a new user, in every tab", async () => {
  const visit = await stage.open();
  await visit.talk("Hello.");
  await isCalled(visit, "Ada");
  const tab = await stage.tab(visit);
  await tab.page.locator(".entry", { hasText: "Kai" }).click();
  await tab.talk("Hi.");
  await tab.box.fill("A draft");

  await visit.page.bringToFront();
  await openSettings(visit);
  await visit.button("Erase everything").click();
  const question = visit.page.getByRole("dialog", { name: "Erase everything?", description: "This cannot be undone." });
  await question.waitFor();
  await visit.page.keyboard.press("Escape");
  expect(stage.functions.asked).not.toContain("DELETE /api/v1/chat/data");
  await openSettings(visit);
  await visit.button("Erase everything").click();
  await visit.button("Erase").click();
  for (const one of [tab, visit]) {
    await one.page.bringToFront();
    await one.page.waitForSelector(".greeting");
    await until("nothing is listed", async () => (await one.page.locator(".entry time").count()) === 0);
    expect(await one.texts()).toEqual([]);
    await one.page.locator(".entry", { hasText: "Kai" }).click();
    await one.page.getByRole("heading", { name: "Kai", level: 1 }).waitFor();
    expect(await one.box.inputValue()).toBe("");
  }
  await openSettings(visit);
  expect(await visit.page.getByLabel("Your name").inputValue()).toBe("");
});

test("a reply that is written while everything is erased does not come back", async () => {
  const visit = await stage.open();
  const reply = await visit.beginReply("Hello.", "Half of");
  await openSettings(visit);
  await visit.button("Erase everything").click();
  await visit.button("Erase").click();
  await visit.page.waitForSelector(".greeting");
  reply.end();
  // The function answers to nobody by now, after it has tried to store the turn.
  await until("the turn has ended", () => stage.functions.isIdle("chat-stream"));
  await visit.page.reload();
  await visit.page.waitForSelector(".greeting");
  await visit.page.waitForLoadState("networkidle");
  expect(await visit.texts()).toEqual([]);
  expect(stage.upstream.replies).toHaveLength(1);
});
