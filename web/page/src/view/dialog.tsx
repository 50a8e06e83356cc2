import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { say } from "../words.ts";

/** A question before something that cannot be undone. */
interface Question {
  title: string;
  text: string;
  yes: string;
  run(): void;
}

const question = signal<Question | null>(null);

/** Asks the user, and runs what was asked about if the answer is yes. */
export function ask(asked: Question): void {
  question.value = asked;
}

/** A window over the page. The browser keeps the focus in it, and gives it back. */
export function Dialog({
  title,
  text,
  onClose,
  children,
}: {
  title: string;
  /** What screen readers say with the title, when it opens. */
  text?: string;
  onClose(): void;
  children: ComponentChildren;
}) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => element.current?.showModal(), []);
  return (
    <dialog
      ref={element}
      class="dialog"
      aria-labelledby="dialog-title"
      aria-describedby={text ? "dialog-text" : undefined}
      onClose={onClose}
      onClick={(event) => event.target === element.current && element.current?.close()}
    >
      <div class="dialog-box">
        <h2 id="dialog-title">{title}</h2>
        {text && <p id="dialog-text">{text}</p>}
        {children}
      </div>
    </dialog>
  );
}

/** Closes the dialog that a button is in, which gives the focus back. */
export function closeDialog(event: Event): void {
  (event.currentTarget as Element).closest("dialog")?.close();
}

/** The place of the questions. */
export function Questions() {
  const asked = question.value;
  if (!asked) return null;
  return (
    <Dialog title={asked.title} text={asked.text} onClose={() => (question.value = null)}>
      <div class="dialog-foot">
        <button type="button" class="button quiet" autofocus onClick={closeDialog}>
          {say("cancel")}
        </button>
        <button
          type="button"
          class="button danger"
          onClick={(event) => {
            closeDialog(event);
            asked.run();
          }}
        >
          {asked.yes}
        </button>
      </div>
    </Dialog>
  );
}
