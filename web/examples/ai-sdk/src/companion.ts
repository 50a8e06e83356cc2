/** What `useChat` needs to talk to companion-chat: a transport, the conversation so far, and what becomes of a turn. */

import { type DataUIPart, DefaultChatTransport, type UIMessage } from "ai";

/** The service's own parts. Their fields are those of the events of docs/http-api.md. */
export type Parts = {
  start: {
    turn_id: string;
    memory: "ok" | "empty" | "unavailable";
    history_messages: number;
    resumable: boolean;
    msg_id: string;
    user_msg_id: string;
  };
  done: {
    turn_id: string;
    msg_id: string;
    user_msg_id: string;
    finish_reason: "stop" | "length" | "content_filter" | "stopped";
    saved: boolean;
    unsaved?: "cleared" | "conflict" | "memory" | "empty";
    usage: { prompt_tokens: number; completion_tokens: number };
  };
  error: { error: string; code: string; turn_id: string; saved: boolean; user_msg_id: string };
};

/** `stored`: the service knows the message by its id, so that it can be asked again or edited. */
export type Message = UIMessage<{ stored: boolean }, Parts>;

export interface Service {
  /** The address of the functions, without a path. */
  url: string;
  /** Returns a token that has not expired. */
  token: () => string | Promise<string>;
  character: string;
}

/** A turn that has begun, and of which no end was seen. The history has it when it is stored, and not before. */
interface OpenTurn {
  turn_id: string;
  msg_id: string;
  text: string;
  replaces?: string;
}

export class Companion {
  readonly character: string;
  readonly transport: DefaultChatTransport<Message>;
  private asked: Omit<OpenTurn, "turn_id" | "msg_id"> | undefined;

  constructor(private readonly service: Service) {
    this.character = service.character;
    this.transport = new DefaultChatTransport<Message>({
      api: this.address("stream", { protocol: "ui-message-stream" }),
      headers: () => this.headers(),
      // A turn that was cleared or forgotten is nothing to come back to.
      fetch: async (address, init) => {
        const response = await fetch(address, init);
        if (init?.method !== "GET" || response.status !== 404) return response;
        this.close();
        return new Response(null, { status: 204 });
      },
      // Of all messages the service wants the newest, and it knows the others. A stored one is answered anew.
      prepareSendMessagesRequest: ({ messages }) => {
        const message = messages.at(-1);
        const text = textOf(message);
        const replaces = message?.metadata?.stored ? message.id : undefined;
        this.asked = { text, ...(replaces && { replaces }) };
        return { body: { character_id: this.character, message: text, replaces } };
      },
      // The turn that was left, also when it has ended since; otherwise the one that runs, on whatever device it began.
      prepareReconnectToStreamRequest: () => {
        const turn = this.openTurn()?.turn_id;
        const query = { protocol: "ui-message-stream", character_id: this.character, ...(turn && { turn_id: turn }) };
        return { api: this.address("stream", query) };
      },
    });
  }

  /** Returns the messages of the session, and the one whose reply was left. */
  async messages(): Promise<Message[]> {
    const address = this.address("history", { character_id: this.character });
    const response = await fetch(address, { headers: await this.headers() });
    if (!response.ok) throw new Error(await response.text());
    const { messages } = (await response.json()) as { messages: { msg_id: string; role: Message["role"]; content: string }[] };
    const past = messages.map(({ msg_id, role, content }) => message(msg_id, role, content, true));
    const turn = this.openTurn();
    if (!turn || past.some(({ id }) => id === turn.msg_id)) {
      this.close();
      return past;
    }
    const replaced = past.findIndex(({ id }) => id === turn.replaces);
    return [...(replaced < 0 ? past : past.slice(0, replaced)), message("open", "user", turn.text, false)];
  }

  /** Follows the turns. To be called with each part that `onData` of `useChat` gets. */
  follow(part: DataUIPart<Parts>, setMessages: (change: (messages: Message[]) => Message[]) => void): void {
    if (part.type === "data-start") {
      const { turn_id, msg_id } = part.data;
      if (this.asked) sessionStorage.setItem(this.key, JSON.stringify({ turn_id, msg_id, ...this.asked }));
      this.asked = undefined;
      return;
    }
    this.close();
    const { saved, user_msg_id } = part.data;
    if (!saved) return;
    // From now on the user's message has the id under which it is stored.
    setMessages((messages) => {
      const newest = messages.findLastIndex(({ role }) => role === "user");
      return messages.map((old, at) => (at === newest ? message(user_msg_id, "user", textOf(old), true) : old));
    });
  }

  /** Stops the turn that runs. Its stream then ends by itself, and what came of the reply is stored. */
  async stop(): Promise<boolean> {
    const address = this.address("stream", { character_id: this.character });
    const response = await fetch(address, { method: "DELETE", headers: await this.headers() });
    return response.ok;
  }

  private get key(): string {
    return `companion-chat: ${this.character}`;
  }

  private openTurn(): OpenTurn | undefined {
    const stored = sessionStorage.getItem(this.key);
    return stored === null ? undefined : (JSON.parse(stored) as OpenTurn);
  }

  private close(): void {
    sessionStorage.removeItem(this.key);
  }

  private address(resource: string, query: Record<string, string>): string {
    return `${this.service.url}/api/v1/chat/${resource}?${new URLSearchParams(query)}`;
  }

  private async headers(): Promise<Record<string, string>> {
    return { authorization: `Bearer ${await this.service.token()}` };
  }
}

function message(id: string, role: Message["role"], text: string, stored: boolean): Message {
  return { id, role, parts: [{ type: "text", text }], metadata: { stored } };
}

function textOf(message: Message | undefined): string {
  return (message?.parts ?? []).map((part) => (part.type === "text" ? part.text : "")).join("");
}
