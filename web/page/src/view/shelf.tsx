import { useEffect, useRef } from "preact/hooks";
import type { House, Row } from "../house.ts";
import { say } from "../words.ts";
import { Avatar } from "./avatar.tsx";
import { Icon } from "./icons.tsx";
import { openSettings } from "./settings.tsx";
import { shortTime } from "./times.ts";

/** The list of characters: those the user talked to last come first. */
export function Shelf({ house, goTo }: { house: House; goTo(id: string): void }) {
  const open = house.open.value;
  // Alone it heads the page; beside a conversation the character does.
  const Heading = open ? "h2" : "h1";
  return (
    <nav class="shelf" aria-label={say("characters")}>
      <div class="shelf-head">
        <Heading>{say("characters")}</Heading>
        <button
          type="button"
          class="tool"
          aria-label={say("settings")}
          aria-haspopup="dialog"
          title={say("settings")}
          onClick={() => openSettings()}
        >
          <Icon name="settings" />
        </button>
      </div>
      <ul>
        {house.rows.value.map((row) => (
          <li key={row.id}>
            <Entry
              row={row}
              isKnown={house.listing.value === "ready"}
              isOpen={row.id === open}
              goTo={goTo}
              onSeen={() => house.see(row.id)}
            />
          </li>
        ))}
      </ul>
      {house.next.value && (
        <button type="button" class="button quiet" onClick={() => void house.more()}>
          {say("more")}
        </button>
      )}
    </nav>
  );
}

interface EntryProps {
  row: Row;
  /** Whether it is known what was said. */
  isKnown: boolean;
  isOpen: boolean;
  goTo(id: string): void;
  /** Called when it comes into view. */
  onSeen(): void;
}

function Entry({ row, isKnown, isOpen, goTo, onSeen }: EntryProps) {
  const element = useRef<HTMLAnchorElement>(null);
  useEffect(() => {
    if (!element.current) return;
    const observer = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) onSeen();
    });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  const name = row.character?.name ?? row.id;
  const last = row.session?.last_message ?? null;
  const about = last ? `${last.role === "user" ? `${say("you")}: ` : ""}${last.content}` : row.character?.creator_notes;
  return (
    <a
      ref={element}
      class="entry"
      href={`#/${encodeURIComponent(row.id)}`}
      aria-current={isOpen ? "page" : undefined}
      onClick={(event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey) return;
        event.preventDefault();
        goTo(row.id);
      }}
    >
      <Avatar id={row.id} name={name} size={44} />
      <span class="entry-text">
        <span class="entry-head">
          <span class="entry-name">{name}</span>
          {last && last.timestamp > 0 && <time>{shortTime(last.timestamp)}</time>}
        </span>
        <span class="entry-last">{about || (isKnown ? say("noMessages") : "")}</span>
      </span>
    </a>
  );
}
