// A conversation as an app has it, on whichever platform runs this file, with the client as it is packed. Prints what came
// of it as JSON. Parameters: the address of the service, a token, and two messages.
import process from "node:process";
import { CompanionChat } from "../../lib/index.js";

const [baseUrl, token, first, second] = process.argv.slice(2);
const chat = new CompanionChat({ baseUrl, token: () => token });

let text = "";
const types = new Set();
for await (const event of chat.send("luna", first)) {
  types.add(event.type);
  if (event.type === "text") text += event.text;
}

const aborts = new AbortController();
let code;
try {
  for await (const event of chat.send("luna", second, { signal: aborts.signal })) {
    if (event.type === "text") aborts.abort();
  }
} catch (error) {
  code = error.code;
}
const stopped = await chat.stop("luna");
const { messages } = await chat.history("luna");
const exported = [];
for await (const item of chat.exportData()) exported.push(item.type);

console.log(JSON.stringify({ text, types: [...types].sort(), code, stopped, stored: messages[1]?.content, exported }));
