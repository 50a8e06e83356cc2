import { announcement } from "../announce.ts";
import type { House } from "../house.ts";
import { locked } from "../token.ts";
import { say } from "../words.ts";
import { hueOf } from "./avatar.tsx";
import { Questions } from "./dialog.tsx";
import { Locked } from "./locked.tsx";
import { Room } from "./room.tsx";
import { Settings } from "./settings.tsx";
import { Shelf } from "./shelf.tsx";

/** The whole page: the list beside the conversation, or on a phone one of the two. */
export function App({ house, goTo }: { house: House; goTo(id: string | null): void }) {
  const open = house.open.value;
  if (locked.value === "missing") {
    return (
      <main class="alone">
        <Locked />
      </main>
    );
  }
  return (
    <div class={open ? "app has-room" : "app"} style={open ? { "--hue": String(hueOf(open)) } : {}}>
      {open && house.conversation(open).canTalk.value && (
        <a
          class="skip"
          href="#message"
          onClick={(event) => {
            event.preventDefault();
            document.getElementById("message")?.focus();
          }}
        >
          {say("skip")}
        </a>
      )}
      {open ? (
        <>
          <Shelf house={house} goTo={goTo} />
          <Room
            key={open}
            conversation={house.conversation(open)}
            isOffline={house.isOffline.value}
            onBack={() => goTo(null)}
          />
        </>
      ) : (
        <main class="list">
          <Shelf house={house} goTo={goTo} />
          <Trouble house={house} />
        </main>
      )}
      <Settings house={house} />
      <Questions />
      <Announcer />
    </div>
  );
}

/** Below the list alone: why it may not be what it was. Beside a conversation, that says so. */
function Trouble({ house }: { house: House }) {
  const listing = house.listing.value;
  const word = house.isOffline.value
    ? "offline"
    : listing === "unreachable"
      ? "unreachable"
      : listing === "unreadable"
        ? "unlisted"
        : null;
  if (locked.value !== null) return <Locked />;
  return word && <p class="line bad">{say(word)}</p>;
}

/** Says whole replies and changes of state to screen readers. */
function Announcer() {
  return (
    <div class="sr" role="status" aria-live="polite">
      {announcement.value}
    </div>
  );
}
