import { Component, createRef } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Item } from "../items.ts";
import { canBeSent } from "../text.ts";
import { say } from "../words.ts";
import { Avatar } from "./avatar.tsx";
import { Body } from "./body.tsx";
import { focusBox } from "./focus.ts";
import { Icon } from "./icons.tsx";
import { isComposing } from "./keys.ts";

interface MessageProps {
  item: Item;
  id: string;
  name: string;
  /** Whether it is the newest reply, which may be asked again. */
  isLast: boolean;
  /** Whether nothing may be changed, because a reply is written. */
  isBusy: boolean;
  onEdit(item: Item, text: string): void;
  onRegenerate(item: Item): void;
  onDelete(item: Item): void;
}

/** One message. It is drawn again only when its item has changed: a long transcript stays as it is. */
export class Message extends Component<MessageProps, { isEditing: boolean }> {
  override state = { isEditing: false };
  readonly #element = createRef<HTMLLIElement>();

  override shouldComponentUpdate(next: MessageProps, state: { isEditing: boolean }): boolean {
    const { item, name, isLast, isBusy } = this.props;
    return (
      next.item !== item ||
      next.name !== name ||
      next.isLast !== isLast ||
      next.isBusy !== isBusy ||
      state.isEditing !== this.state.isEditing
    );
  }

  /** The editor is gone, and with it the focus, which goes back to where it was. */
  #cancel(): void {
    this.setState({ isEditing: false }, () => {
      this.#element.current?.querySelector<HTMLElement>("[data-icon=edit]")?.focus();
    });
  }

  override render() {
    const { item, id, name, isBusy, isLast, onEdit, onRegenerate, onDelete } = this.props;
    const isUser = item.role === "user";
    if (this.state.isEditing && !isBusy) {
      return (
        <li class="message user editing">
          <Editor
            text={item.prose.text}
            onCancel={() => this.#cancel()}
            onSave={(text) => {
              this.setState({ isEditing: false });
              onEdit(item, text);
              focusBox();
            }}
          />
        </li>
      );
    }
    return (
      // A touch gives it the focus, and shows its buttons.
      <li ref={this.#element} class={isUser ? "message user" : "message reply"} tabIndex={-1} aria-busy={item.live}>
        {!isUser && <Avatar id={id} name={name} size={32} />}
        <div class="content">
          <span class="sr">{isUser ? say("you") : name}: </span>
          <Body prose={item.prose} live={item.live} />
          {item.notes.map((note) => (
            <p class="note" key={note}>
              {say(note, { name })}
            </p>
          ))}
          {!item.live && (
            <div class="actions">
              {/* Pages that are not served by https, but for those of this machine, have no clipboard. */}
              {navigator.clipboard && <Copy text={() => item.prose.text} />}
              {isUser && item.id && (
                <Action
                  icon="edit"
                  label={say("edit")}
                  isOff={isBusy}
                  onClick={() => this.setState({ isEditing: true })}
                />
              )}
              {!isUser && isLast && item.id && (
                <Action
                  icon="again"
                  label={say("regenerate")}
                  isOff={isBusy}
                  onClick={() => (onRegenerate(item), focusBox())}
                />
              )}
              {isUser && item.id && (
                <Action icon="trash" label={say("deleteFrom")} isOff={isBusy} onClick={() => onDelete(item)} />
              )}
            </div>
          )}
        </div>
      </li>
    );
  }
}

interface ActionProps {
  icon: "edit" | "again" | "trash" | "copy";
  label: string;
  isOff?: boolean;
  onClick(): void;
}

function Action({ icon, label, isOff = false, onClick }: ActionProps) {
  return (
    <button
      type="button"
      class="action"
      data-icon={icon}
      aria-label={label}
      title={label}
      disabled={isOff}
      onClick={onClick}
    >
      <Icon name={icon} />
    </button>
  );
}

function Copy({ text }: { text: () => string }) {
  const [isDone, setDone] = useState(false);
  useEffect(() => {
    if (!isDone) return;
    const timer = setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [isDone]);
  const copy = (): void => {
    void navigator.clipboard.writeText(text()).then(() => setDone(true));
  };
  return <Action icon="copy" label={isDone ? say("copied") : say("copy")} onClick={copy} />;
}

function Editor({ text, onSave, onCancel }: { text: string; onSave(text: string): void; onCancel(): void }) {
  const [value, setValue] = useState(text);
  const area = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(text.length, text.length);
  }, []);
  const onKeyDown = (event: KeyboardEvent): void => {
    if (isComposing(event)) return;
    if (event.key === "Escape") {
      event.stopPropagation();
      onCancel();
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (canBeSent(value)) onSave(value);
    }
  };
  return (
    <form
      class="editor"
      onSubmit={(event) => {
        event.preventDefault();
        if (canBeSent(value)) onSave(value);
      }}
    >
      <textarea
        ref={area}
        aria-label={say("editing")}
        rows={2}
        value={value}
        onInput={(event) => setValue(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <div class="editor-foot">
        <span>{say("editHint")}</span>
        <button type="button" class="button quiet" onClick={onCancel}>
          {say("cancel")}
        </button>
        <button type="submit" class="button" disabled={!canBeSent(value)}>
          {say("save")}
        </button>
      </div>
    </form>
  );
}
