import { signal } from "@preact/signals";
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

/** The place of the questions. The browser keeps the focus in it, and gives it back. */
export function Dialog() {
  const element = useRef<HTMLDialogElement>(null);
  const asked = question.value;
  useEffect(() => {
    if (asked && !element.current?.open) element.current?.showModal();
  }, [asked]);
  if (!asked) return null;
  return (
    <dialog
      ref={element}
      class="dialog"
      aria-labelledby="dialog-title"
      aria-describedby="dialog-text"
      onClose={() => (question.value = null)}
      onKeyDown={(event) => event.stopPropagation()}
      onClick={(event) => event.target === element.current && element.current?.close()}
    >
      <div class="dialog-box">
        <h2 id="dialog-title">{asked.title}</h2>
        <p id="dialog-text">{asked.text}</p>
        <div class="dialog-foot">
          <button type="button" class="button quiet" autofocus onClick={() => element.current?.close()}>
            {say("cancel")}
          </button>
          <button
            type="button"
            class="button danger"
            onClick={() => {
              element.current?.close();
              asked.run();
            }}
          >
            {asked.yes}
          </button>
        </div>
      </div>
    </dialog>
  );
}
