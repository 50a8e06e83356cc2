import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Conversation } from "../conversation.ts";
import type { Item } from "../items.ts";
import { say } from "../words.ts";
import { Avatar } from "./avatar.tsx";
import { Body } from "./body.tsx";
import { ask } from "./dialog.tsx";
import { focusBox } from "./focus.ts";
import { Icon } from "./icons.tsx";
import { Message } from "./message.tsx";
import { Prose } from "../prose.ts";
import { separator } from "./times.ts";

/** How near to its end the transcript follows what is added, in px. */
const NEAR = 48;
/** How near to its beginning older messages are asked for, in px. */
const AHEAD = 800;

/** All messages of a conversation, and where the user is in them. */
export function Transcript({ conversation, children }: { conversation: Conversation; children: ComponentChildren }) {
  const scroller = useRef<HTMLDivElement>(null);
  const column = useRef<HTMLDivElement>(null);
  const [isAtEnd, setAtEnd] = useState(true);
  const follows = useRef(true);
  /** Where the view was at the last event of scrolling, in px. */
  const top = useRef(0);
  const items = conversation.stored.items.value;
  const isEmpty = items.length === 0;
  const hasNewest = useRef(false);
  hasNewest.current = !isEmpty;
  const isBusy = conversation.following.turn.value !== null;
  const name = conversation.name.value;

  // What is added below is followed, unless the user has scrolled up. The observer runs after the layout of a frame and
  // before it is painted, so the text never moves twice.
  useEffect(() => {
    const view = scroller.current;
    if (!view || !column.current) return;
    const follow = (): void => {
      if (follows.current && hasNewest.current) view.scrollTop = view.scrollHeight;
    };
    const observer = new ResizeObserver(follow);
    observer.observe(column.current);
    observer.observe(view);
    return () => observer.disconnect();
  }, []);

  // A greeting is read from its beginning, however long it is.
  useLayoutEffect(() => {
    if (!isEmpty) return;
    follows.current = true;
    setAtEnd(true);
    if (scroller.current) scroller.current.scrollTop = 0;
  }, [isEmpty]);

  // What the user sends is looked at, wherever the user was.
  const newest = items.at(-1);
  useLayoutEffect(() => {
    if (!newest?.live) return;
    follows.current = true;
    setAtEnd(true);
  }, [newest?.live]);

  // Older messages come in above, and what is read stays where it is.
  const oldest = items[0]?.key;
  const height = useRef({ oldest, scrollHeight: 0 });
  useLayoutEffect(() => {
    const view = scroller.current;
    if (!view) return;
    const last = height.current;
    if (last.oldest !== oldest && !follows.current) view.scrollTop += view.scrollHeight - last.scrollHeight;
    height.current = { oldest, scrollHeight: view.scrollHeight };
  }, [oldest, items]);

  const onScroll = (): void => {
    const view = scroller.current;
    if (!view) return;
    // The event tells of the frame before, and what has grown since has not moved the user. Only scrolling up leaves the
    // end.
    if (view.scrollHeight - view.scrollTop - view.clientHeight < NEAR) follows.current = true;
    else if (view.scrollTop < top.current) follows.current = false;
    top.current = view.scrollTop;
    setAtEnd(follows.current);
    height.current.scrollHeight = view.scrollHeight;
    if (view.scrollTop < AHEAD) void conversation.stored.older();
  };

  // A first page that does not fill the window cannot be scrolled, so more is asked for.
  useEffect(() => {
    const view = scroller.current;
    if (view && conversation.stored.hasMore.value && view.scrollHeight <= view.clientHeight + AHEAD) void conversation.stored.older();
  }, [items, conversation.stored.hasMore.value]);

  const onDelete = (item: Item): void => {
    ask({
      title: say("deleteFromTitle"),
      text: say("deleteFromText", { name }),
      yes: say("delete"),
      run: () => void conversation.deleteFrom(item).then(focusBox),
    });
  };

  const lastReply = items.findLast((item) => item.role === "assistant");
  return (
    <>
      <div
        class="scroller"
        ref={scroller}
        onScroll={onScroll}
        role="region"
        tabIndex={0}
        aria-label={say("messagesOf", { name })}
      >
        <div class="column" ref={column}>
          {conversation.stored.hasMore.value && <p class="edge">{say("older")}</p>}
          {!conversation.stored.hasMore.value && items.length > 20 && <p class="edge">{say("beginning")}</p>}
          <Opening conversation={conversation} />
          <ol class="messages">
            {items.flatMap((item, index) => {
              const time = separator(items[index - 1]?.at, item.at);
              return [
                time && (
                  <li class="time" key={`time-${item.key}`}>
                    {time}
                  </li>
                ),
                <Message
                  key={item.key}
                  item={item}
                  id={conversation.id}
                  name={name}
                  isLast={item === lastReply && item === newest}
                  isBusy={isBusy}
                  onEdit={(edited, text) => conversation.edit(edited, text)}
                  onRegenerate={(reply) => conversation.regenerate(reply)}
                  onDelete={onDelete}
                />,
              ];
            })}
          </ol>
          {children}
        </div>
      </div>
      {!isAtEnd && !isEmpty && (
        <button
          type="button"
          class="to-newest"
          aria-label={say("newest")}
          title={say("newest")}
          onClick={() => {
            follows.current = true;
            scroller.current?.scrollTo({ top: scroller.current.scrollHeight });
          }}
        >
          <Icon name="down" />
        </button>
      )}
    </>
  );
}

/** What stands where no message is yet: the character, and how it greets. */
function Opening({ conversation }: { conversation: Conversation }) {
  const character = conversation.around.character.value;
  const name = conversation.name.value;
  const text = conversation.greeting.value?.text ?? null;
  const greeting = useRef<{ text: string | null; prose: Prose }>({ text: null, prose: new Prose() });
  if (conversation.stored.state.value.kind === "loading") return <p class="edge">{say("loading")}</p>;
  if (!conversation.stored.isEmpty.value) return null;
  if (conversation.around.absence.value) return null;
  if (greeting.current.text !== text) greeting.current = { text, prose: new Prose(text ?? "") };
  const count = conversation.greetings.value.length;
  return (
    <div class="opening">
      <div class="portrait">
        <Avatar id={conversation.id} name={name} size={72} />
        <h2>{name}</h2>
        {character && character.creator_notes && <p class="about">{character.creator_notes}</p>}
        {character && character.tags.length > 0 && (
          <ul class="tags">
            {character.tags.map((tag) => (
              <li key={tag}>{tag}</li>
            ))}
          </ul>
        )}
      </div>
      {text === null ? (
        <p class="edge">{say("firstWords", { name })}</p>
      ) : (
        <div class="message reply greeting">
          <Avatar id={conversation.id} name={name} size={32} />
          <div class="content">
            <Body prose={greeting.current.prose} live={false} />
            {count > 1 && (
              <button type="button" class="other" onClick={() => conversation.nextGreeting()}>
                <Icon name="again" />
                {say("otherGreeting")}
                <span class="count">
                  {conversation.greetingIndex.value + 1}/{count}
                </span>
              </button>
            )}
          </div>
        </div>
      )}
    </div>
  );
}
