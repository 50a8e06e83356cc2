/** What is built of this folder for others: the page, from its variables, and the package. */

import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

const WEB = fileURLToPath(new URL("..", import.meta.url));
const run = promisify(execFile);

describe("the page is built", () => {
  let folder = "";
  beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "page-"))));
  afterEach(() => rmSync(folder, { recursive: true }));

  function build(variables: Record<string, string>) {
    const parameters = ["run", "--silent", "page", "--", "--outDir", folder];
    return run("npm", parameters, { cwd: WEB, env: { ...process.env, CHAT_API: "", CHAT_CHARACTERS: "", ...variables } });
  }

  test("with the characters and the address that its variables name, whatever is around them", async () => {
    await build({ CHAT_CHARACTERS: " luna, kai ,,月 亮,", CHAT_API: " https://api.example.com/stage " });
    expect(JSON.parse(readFileSync(`${folder}/config.json`, "utf8"))).toEqual({ characters: ["luna", "kai", "月 亮"] });
    const page = readFileSync(`${folder}/index.html`, "utf8");
    expect(page).toContain('name="chat-api" content="https://api.example.com/stage"');
    expect(page).toContain("connect-src 'self' https://api.example.com;");
  });

  test.each([
    ["CHAT_CHARACTERS", `luna,${"月".repeat(43)}`],
    ["CHAT_API", "notaurl"],
    ["CHAT_API", "api.example.com"],
    ["CHAT_API", "localhost:9000"],
    ["CHAT_API", "ftp://api.example.com"],
    ["CHAT_API", "https://api.example.com/?stage=a"],
    ["CHAT_API", "https://user@api.example.com"],
  ])("only if %s can be right, and not with %s", async (variable, value) => {
    const failure = await build({ [variable]: value }).then(
      () => undefined,
      (error: unknown) => error as { stdout: string; stderr: string },
    );
    const said = `${failure?.stdout}${failure?.stderr}`;
    expect(said).toContain(variable);
    expect(said).toContain(value.split(",").at(-1));
    expect(said).not.toMatch(/^\s+at /m);
  });
});

describe("the package", () => {
  test("has its license, and a README whose links lead somewhere", async () => {
    const { stdout } = await run("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: WEB });
    const [{ files }] = JSON.parse(stdout) as [{ files: { path: string }[] }];
    const names = files.map(({ path }) => path);
    expect(names).toContain("LICENSE");
    const readme = readFileSync(`${WEB}/README.md`, "utf8");
    const links = [...readme.matchAll(/\]\(([^)]+)\)/g)].map(([, link = ""]) => link);
    const headings = [...readme.matchAll(/^#+ (.+)$/gm)].map(([, heading = ""]) => `#${heading.toLowerCase().replaceAll(" ", "-")}`);
    for (const link of links) expect([...names, ...headings].some((name) => name === link) || /^https?:/.test(link), link).toBe(true);
  });

  test("has the license of the repository", () => {
    expect(readFileSync(`${WEB}/LICENSE`, "utf8")).toBe(readFileSync(`${WEB}/../LICENSE`, "utf8"));
  });
});
