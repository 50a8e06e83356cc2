import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Conversation } from "../conversation.ts";
import { canBeSent, lengthOf, LONGEST } from "../text.ts";
import { say } from "../words.ts";
import { focusBox } from "./focus.ts";
import { Icon } from "./icons.tsx";
import { isComposing } from "./keys.ts";

/** From how many characters on the user is told how many are left. */
const COUNTED = LONGEST - 200;

/** Where the user writes. */
export function Composer({ conversation }: { conversation: Conversation }) {
  const area = useRef<HTMLTextAreaElement>(null);
  const text = conversation.draft.value;
  const name = conversation.name.value;
  const isBusy = conversation.following.turn.value !== null;
  const length = lengthOf(text);

  useEffect(focusBox, [conversation.id]);

  // Browsers that know `field-sizing` do this themselves.
  useLayoutEffect(() => {
    const element = area.current;
    if (!element || CSS.supports("field-sizing", "content")) return;
    element.style.height = "auto";
    element.style.height = `${element.scrollHeight}px`;
  }, [text]);

  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
    // On a phone Enter is a new line: the button is next to it.
    if (matchMedia("(pointer: coarse)").matches) return;
    event.preventDefault();
    conversation.send();
  };

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        conversation.send();
        area.current?.focus();
      }}
    >
      <textarea
        id="message"
        ref={area}
        rows={1}
        value={text}
        placeholder={say("placeholder", { name })}
        aria-label={say("placeholder", { name })}
        aria-describedby={length > COUNTED ? "count" : undefined}
        aria-invalid={length > LONGEST}
        onInput={(event) => conversation.write(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      {length > COUNTED && (
        <span id="count" class={length > LONGEST ? "count over" : "count"}>
          {roomLeft(LONGEST - length)}
        </span>
      )}
      <button
        type="submit"
        class="send"
        aria-label={say("send")}
        title={isBusy ? say("busy", { name }) : say("send")}
        disabled={isBusy || !canBeSent(text)}
      >
        <Icon name="send" />
      </button>
    </form>
  );
}

/** Returns how many characters are left, or too many. */
function roomLeft(count: number): string {
  if (count < 0) return count === -1 ? say("tooLongByOne") : say("tooLong", { count: -count });
  return count === 1 ? say("oneLeft") : say("left", { count });
}
