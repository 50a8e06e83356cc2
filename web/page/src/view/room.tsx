import { useEffect, useRef, useState } from "preact/hooks";
import { announce } from "../announce.ts";
import type { Conversation } from "../conversation.ts";
import { locked } from "../token.ts";
import { say } from "../words.ts";
import { Avatar } from "./avatar.tsx";
import { Composer } from "./composer.tsx";
import { ask } from "./dialog.tsx";
import { focusBox } from "./focus.ts";
import { Icon } from "./icons.tsx";
import { isComposing } from "./keys.ts";
import { Locked } from "./locked.tsx";
import { Transcript } from "./transcript.tsx";

/** One conversation, from its head to the box for the next message. */
export function Room({
  conversation,
  isOffline,
  onBack,
}: {
  conversation: Conversation;
  isOffline: boolean;
  onBack(): void;
}) {
  const name = conversation.name.value;
  const turn = conversation.following.turn.value;
  const isEmpty = conversation.stored.items.value.length === 0;
  useEffect(() => {
    document.title = `${name} · companion-chat`;
    return () => {
      document.title = "companion-chat";
    };
  }, [name]);
  const onClear = (): void => {
    ask({
      title: say("clearTitle"),
      text: say("clearText", { name }),
      yes: say("clearYes"),
      run: () => void conversation.clear().then(focusBox),
    });
  };
  return (
    <main
      class="room"
      aria-label={say("conversationWith", { name })}
      onKeyDown={(event) => {
        if (event.key === "Escape" && turn && !isComposing(event)) void conversation.following.stop();
      }}
    >
      <header class="head">
        <a
          class="back"
          href="#"
          aria-label={say("back")}
          onClick={(event) => {
            event.preventDefault();
            onBack();
          }}
        >
          <Icon name="back" />
        </a>
        <Avatar id={conversation.id} name={name} size={36} />
        <h1>{name}</h1>
        <button
          type="button"
          class="tool"
          aria-label={say("clear")}
          title={say("clear")}
          disabled={isEmpty || turn !== null}
          onClick={onClear}
        >
          <Icon name="trash" />
        </button>
      </header>
      <div class="stage">
        <Transcript key={conversation.id} conversation={conversation}>
          <Trouble conversation={conversation} />
        </Transcript>
      </div>
      <div class="dock">
        <div class="dock-top">
          <Line conversation={conversation} isOffline={isOffline} />
          {turn?.stoppable && turn.connection !== "locked" && (
            <button
              type="button"
              class="stop"
              title={say("stopHint")}
              disabled={turn.stopping}
              onClick={() => void conversation.following.stop()}
            >
              <span class="square" aria-hidden="true" />
              {turn.stopping ? say("stopping") : say("stop")}
            </button>
          )}
        </div>
        {locked.value !== null && <Locked />}
        {conversation.canTalk.value && <Composer conversation={conversation} />}
      </div>
    </main>
  );
}

/** Why the last thing did not work, or why nothing is shown, and what can be done. */
function Trouble({ conversation }: { conversation: Conversation }) {
  const failure = conversation.failure.value;
  const state = conversation.stored.state.value;
  return (
    <>
      {failure && (
        <div class="trouble">
          <p>{failure.text}</p>
          {failure.again && (
            <button type="button" class="button" onClick={() => (failure.again?.(), focusBox())}>
              {say("again")}
            </button>
          )}
          <button type="button" class="button quiet" onClick={() => (failure.dismiss(), focusBox())}>
            {say("dismiss")}
          </button>
        </div>
      )}
      {state.kind === "refused" && <p class="trouble">{say("refused", { reason: state.reason })}</p>}
      {conversation.around.absence.value && <Absence why={conversation.around.absence.value} />}
    </>
  );
}

/** Why there is nobody to talk to. */
function Absence({ why }: { why: "missing" | "broken" }) {
  const element = useRef<HTMLParagraphElement>(null);
  const text = why === "missing" ? say("absentMissing") : say("absentBroken");
  useEffect(() => {
    // The box for the message is gone, and with it the focus.
    if (document.activeElement === document.body) element.current?.focus();
    else announce(text);
  }, [text]);
  return (
    <p class="trouble" ref={element} tabIndex={-1}>
      {text}
    </p>
  );
}

/** One quiet line about the connection and the memory. Empty when all is well. */
function Line({ conversation, isOffline }: { conversation: Conversation; isOffline: boolean }) {
  const connection = conversation.following.turn.value?.connection;
  const state = conversation.stored.state.value.kind;
  const [wasLost, setWasLost] = useState(false);
  const isLost = connection === "lost";
  useEffect(() => {
    if (isLost) {
      setWasLost(true);
      return;
    }
    const timer = setTimeout(() => setWasLost(false), 2500);
    return () => clearTimeout(timer);
  }, [isLost]);
  const text = isLost
    ? say("lost")
    : isOffline
      ? say("offline")
      : state === "unreachable"
        ? say("unreachable")
        : state === "unreadable"
          ? say("unreadable")
          : wasLost
            ? say("restored")
            : "";
  const kind = text === "" ? "" : wasLost && !isLost && !isOffline ? " good" : " bad";
  return <p class={`line${kind}`}>{text}</p>;
}
