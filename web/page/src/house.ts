// All that the page shows: the characters, the user's sessions, and which conversation is open.
import { computed, signal } from "@preact/signals";
import { type Character, CompanionChat, type Sessions } from "../../src/client.js";
import { announce } from "./announce.ts";
import { Conversation } from "./conversation.ts";
import { readName, writeName } from "./profile.ts";
import { absenceOf, isPassing, isUnreadable, RETRY_AFTER_MS } from "./reasons.ts";
import { api, readCharacters } from "./settings.ts";
import { type News, Tabs } from "./tabs.ts";
import { beginAnew, currentToken, fetchAsUser, locked, onNewToken, userOfToken } from "./token.ts";

type Session = Sessions["sessions"][number];

/** What is known of a character: what may be shown of it, or why there is nothing to show. */
type Known = Character | "missing" | "broken";

/** A line of the list of characters. */
export interface Row {
  id: string;
  character: Character | null;
  session: Session | null;
}

export class House {
  readonly sessions = signal<readonly Session[]>([]);
  readonly next = signal<string | null>(null);
  /** What is known of the sessions: nothing yet, all that is shown, or why they cannot be read. */
  readonly listing = signal<"new" | "ready" | "unreadable" | "unreachable">("new");
  /** Which conversation is open; null shows the list alone, on a phone. */
  readonly open = signal<string | null>(null);
  readonly isOffline = signal(!navigator.onLine);
  /** What characters call the user; empty if that is left to them. */
  readonly userName = signal(readName(userOfToken()));
  /** Resolves when the first row is known: that of the newest session, or of the first character that is offered. */
  readonly listed: Promise<void>;

  readonly rows = computed<Row[]>(() => {
    const sessions = this.sessions.value;
    const started = new Set(sessions.map((session) => session.character_id));
    const row = (id: string, session: Session | null): Row => {
      return { id, character: shown(this.#known.value.get(id)), session };
    };
    return [
      ...sessions.map((session) => row(session.character_id, session)),
      ...this.#offered.value.filter((id) => !started.has(id)).map((id) => row(id, null)),
    ];
  });

  readonly #client: CompanionChat;
  readonly #tabs: Tabs;
  /** The characters to offer besides those of the sessions. */
  readonly #offered = signal<readonly string[]>([]);
  readonly #conversations = new Map<string, Conversation>();
  readonly #known = signal<ReadonlyMap<string, Known>>(new Map());
  /** The characters that are known, or asked for. */
  readonly #learning = new Map<string, Promise<void>>();
  /** The characters whose rows the user has seen. */
  readonly #seen = new Set<string>();
  #later: ReturnType<typeof setTimeout> | undefined;
  #relist: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    this.#client = new CompanionChat({ baseUrl: api, token: currentToken, fetch: fetchAsUser });
    this.#tabs = new Tabs(userOfToken(), api, (news) => this.#hear(news));
    this.listed = this.#fill();
    onNewToken(() => this.#again());
    addEventListener("online", () => {
      this.isOffline.value = false;
      this.#again();
    });
    addEventListener("offline", () => (this.isOffline.value = true));
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.#again();
    });
  }

  /** Opens the conversation with a character, or with null the list. */
  show(id: string | null): void {
    // What was said of one conversation is no news in another.
    if (id !== this.open.peek()) announce("");
    this.open.value = id;
    if (id !== null) void this.conversation(id).refresh();
  }

  /** Returns the conversation with a character. */
  conversation(id: string): Conversation {
    const known = this.#conversations.get(id);
    if (known) return known;
    const character = computed(() => this.#known.value.get(id));
    const conversation = new Conversation(id, {
      client: this.#client,
      character: computed(() => shown(character.value)),
      absence: computed(() => (typeof character.value === "string" ? character.value : null)),
      userName: this.userName,
      learn: () => this.#learn(id),
      tell: (news) => this.#tabs.tell(news),
      announce: (text) => {
        if (this.open.peek() === id) announce(text);
      },
      changed: () => void this.#list(),
    });
    this.#conversations.set(id, conversation);
    return conversation;
  }

  /** Asks for what a row shows of a character, when the user sees it: there may be a thousand that nobody looks at. */
  see(id: string): void {
    this.#seen.add(id);
    void this.#learn(id);
  }

  /** Reads older sessions. */
  async more(): Promise<void> {
    const before = this.next.peek();
    if (before) await this.#list(before);
  }

  /** Has characters call the user by another name; empty for none. */
  rename(name: string): void {
    if (name === this.userName.peek()) return;
    writeName(userOfToken(), name);
    this.#rename(name);
    this.#tabs.tell({ type: "renamed", name });
  }

  /** Returns a file with everything that is kept about the user: a JSON object a line. */
  async exportData(): Promise<Blob> {
    const lines: string[] = [];
    for await (const item of this.#client.exportData()) lines.push(`${JSON.stringify(item)}\n`);
    return new Blob(lines, { type: "application/x-ndjson" });
  }

  /** Erases everything that is kept about the user, here too, and begins anew. */
  async eraseData(): Promise<void> {
    await this.#client.eraseData();
    writeName(userOfToken(), "");
    this.#tabs.tell({ type: "erased" });
    beginAnew();
  }

  /** Reads what the list shows, until its first row is known. */
  async #fill(): Promise<void> {
    const offered = readCharacters().then((characters) => void (this.#offered.value = characters));
    await this.#list();
    if (this.sessions.peek().length === 0) await offered;
  }

  /** Asks for what may have changed while the page did not look. */
  #again(): void {
    if (locked.peek()) return;
    for (const id of this.#seen) void this.#learn(id);
    void this.#list();
    const open = this.open.peek();
    if (open) void this.conversation(open).refresh();
  }

  async #list(before?: string): Promise<void> {
    clearTimeout(this.#relist);
    if (locked.peek()) return;
    try {
      const page = await this.#client.sessions({ limit: 30, ...(before ? { before } : {}) });
      const fresh = new Set(page.sessions.map((session) => session.character_id));
      const others = before ? this.sessions.peek().filter((session) => !fresh.has(session.character_id)) : [];
      this.sessions.value = [...others, ...page.sessions];
      this.next.value = page.next;
      this.listing.value = "ready";
    } catch (error) {
      // What is listed stays.
      if (!isPassing(error)) return;
      this.listing.value = isUnreadable(error) ? "unreadable" : "unreachable";
      this.#relist = setTimeout(() => void this.#list(), RETRY_AFTER_MS);
    }
  }

  /** Asks for what may be shown of a character, unless it is known. */
  #learn(id: string): Promise<void> {
    if (locked.peek()) return Promise.resolve();
    const learning = this.#learning.get(id) ?? this.#ask(id);
    this.#learning.set(id, learning);
    return learning;
  }

  async #ask(id: string): Promise<void> {
    const userName = this.userName.peek();
    try {
      const character = await this.#client.character(id, userName ? { userName } : {});
      if (userName === this.userName.peek()) this.#know(id, character);
      // The user has another name meanwhile, which the greetings may have in them.
      else await this.#learn(id);
    } catch (error) {
      this.#learning.delete(id);
      const absence = absenceOf(error);
      if (absence) this.#know(id, absence);
      // Others are asked for when they are opened.
      else if (isPassing(error) && this.open.peek() === id) this.#learnLater(id);
    }
  }

  #learnLater(id: string): void {
    clearTimeout(this.#later);
    this.#later = setTimeout(() => void this.#learn(id), RETRY_AFTER_MS);
  }

  #know(id: string, known: Known): void {
    this.#known.value = new Map(this.#known.peek()).set(id, known);
  }

  /** Asks again for the character whose greetings are shown, which may have the name in them. Others can wait. */
  #rename(name: string): void {
    this.userName.value = name;
    this.#learning.clear();
    const open = this.open.peek();
    if (open) void this.#learn(open);
  }

  #hear(news: News): void {
    switch (news.type) {
      case "turn":
        this.#conversations.get(news.character)?.join(news.turnId, news.request);
        break;
      case "changed":
        void this.#conversations.get(news.character)?.refresh();
        void this.#list();
        break;
      case "renamed":
        this.#rename(news.name);
        break;
      case "erased":
        beginAnew();
        break;
    }
  }
}

function shown(known: Known | undefined): Character | null {
  return typeof known === "object" ? known : null;
}
