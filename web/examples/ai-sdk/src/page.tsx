import { useChat, type UseChatHelpers } from "@ai-sdk/react";
import { useEffect, useState } from "react";

import { type Companion, type Message, reasonOf } from "./companion.ts";

export function Page({ companion }: { companion: Companion }) {
  const [past, setPast] = useState<Message[]>();
  const [error, setError] = useState<Error>();
  useEffect(() => void companion.messages().then(setPast, setError), [companion]);
  if (error) return <p role="alert">{reasonOf(error)}</p>;
  return past ? <Conversation companion={companion} past={past} /> : <p>…</p>;
}

function Conversation({ companion, past }: { companion: Companion; past: Message[] }) {
  const chat: UseChatHelpers<Message> = useChat<Message>({
    id: companion.character,
    messages: past,
    transport: companion.transport,
    resume: true,
    onData: (part) => companion.follow(part, chat.setMessages),
  });
  const [text, setText] = useState("");
  const isBusy = chat.status === "submitted" || chat.status === "streaming";
  const unsaved = (parts: Message["parts"]) => parts.some((part) => part.type === "data-done" && !part.data.saved);
  return (
    <form onSubmit={(event) => (event.preventDefault(), setText(""), void chat.sendMessage({ text }))}>
      {chat.messages.map(({ id, role, parts }) => (
        <p key={id} id={id} data-role={role}>
          {parts.map((part) => (part.type === "text" ? part.text : ""))} {unsaved(parts) && <em>(not saved)</em>}
        </p>
      ))}
      {chat.error && <p role="alert">{reasonOf(chat.error)}</p>}
      <input aria-label="Message" value={text} onChange={(event) => setText(event.target.value)} />
      <button disabled={isBusy || !text}>Send</button>
      <button type="button" disabled={!isBusy} onClick={() => void companion.stop()}>Stop</button>
      <button type="button" disabled={isBusy || !chat.messages.length} onClick={() => void chat.regenerate()}>Again</button>
    </form>
  );
}
