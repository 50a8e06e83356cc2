import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import type { House } from "../house.ts";
import { reasonOf } from "../reasons.ts";
import { canBeName } from "../text.ts";
import { say } from "../words.ts";
import { ask, closeDialog, Dialog } from "./dialog.tsx";

/** Null while the settings are closed. */
const opened = signal<{ trouble: string } | null>(null);

/** Opens the settings, or has them say what did not work. */
export function openSettings(trouble = ""): void {
  opened.value = { trouble };
}

/** The place of the settings. */
export function Settings({ house }: { house: House }) {
  return opened.value && <Panel house={house} trouble={opened.value.trouble} />;
}

/** What the user may set, and what the user may do with all that is kept about them. */
function Panel({ house, trouble }: { house: House; trouble: string }) {
  const [name, setName] = useState(house.userName.peek());
  const [isExporting, setExporting] = useState(false);
  const chosen = name.trim();
  const isGood = chosen === "" || canBeName(chosen);

  const fail = (error: unknown): void => openSettings(say("notDone", { reason: reasonOf(error) }));
  const onExport = async (): Promise<void> => {
    // What did not work before is gone, so that a screen reader is told when it does not work again.
    openSettings();
    setExporting(true);
    try {
      download(await house.exportData());
    } catch (error) {
      fail(error);
    }
    setExporting(false);
  };
  const onErase = (event: Event): void => {
    closeDialog(event);
    ask({
      title: say("eraseTitle"),
      text: say("eraseText"),
      yes: say("eraseYes"),
      run: () => void house.eraseData().catch(fail),
    });
  };
  return (
    <Dialog title={say("settings")} onClose={() => (opened.value = null)}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (!isGood) return;
          house.rename(chosen);
          closeDialog(event);
        }}
      >
        <label for="user-name">{say("userName")}</label>
        <div class="field">
          <input
            id="user-name"
            type="text"
            autocomplete="nickname"
            value={name}
            aria-describedby="user-name-hint"
            aria-invalid={!isGood}
            onInput={(event) => setName(event.currentTarget.value)}
          />
          <button type="submit" class="button" disabled={!isGood}>
            {say("saveSettings")}
          </button>
        </div>
        <p id="user-name-hint" class={isGood ? "hint" : "hint over"}>
          {say(isGood ? "userNameHint" : "userNameBad")}
        </p>
      </form>
      <section class="data" aria-labelledby="data-title">
        <h3 id="data-title">{say("yourData")}</h3>
        <p>{say("yourDataText")}</p>
        <div class="data-actions">
          <button type="button" class="button quiet" disabled={isExporting} onClick={() => void onExport()}>
            {say(isExporting ? "exporting" : "export")}
          </button>
          <button type="button" class="button quiet danger" onClick={onErase}>
            {say("erase")}
          </button>
        </div>
        {/* In the dialog, because nothing outside of it is said while it is open. */}
        {trouble && (
          <p class="over" role="alert">
            {trouble}
          </p>
        )}
      </section>
      <div class="dialog-foot">
        <button type="button" class="button quiet" onClick={closeDialog}>
          {say("closeSettings")}
        </button>
      </div>
    </Dialog>
  );
}

/** Has the browser store a file. */
function download(file: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `companion-chat-${new Date().toISOString().slice(0, 10)}.ndjson`;
  link.click();
  // The browser reads it in its own time, and for a while.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
