/** What `useChat` needs to talk to companion-chat: a transport, the conversation so far, and what becomes of a turn. */

import {
  APICallError,
  type ChatTransport,
  type DataUIPart,
  DefaultChatTransport,
  generateId,
  type UIMessage,
  type UIMessageChunk,
} from "ai";

/** The service's own parts, whose fields are those of the events of docs/http-api.md, and one of the transport. */
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
  /** The conversation as it is stored now, after something was missed. */
  history: Message[];
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

/**
 * A message that was sent, and of whose turn no end was seen: whether it is stored is not known. The tab keeps it, so
 * that a reload, or another attempt, comes back to that turn and begins no second one.
 */
interface Ask {
  /** Makes all requests one turn. It is stored with the message, by which the history tells that it has it. */
  key: string;
  message: Message;
  /** The stored message whose place it takes. */
  replaces?: string;
  /** Once the turn has begun, and is recorded. */
  turn_id?: string;
}

const PROTOCOL = "ui-message-stream";
/** How often a lost turn is asked for before that is an error, with pauses of up to 5 s: for some 20 s. */
const ATTEMPTS = 12;
/** What a gateway or the service answers when it cannot answer now. */
const PASSING = [502, 503, 504];
/** What says nothing of the message itself, so that it stays open: after these, another attempt is the same request. */
const UNDECIDED = [401, 429, ...PASSING];

export class Companion {
  readonly character: string;
  readonly transport: ChatTransport<Message>;
  private readonly http: DefaultChatTransport<Message>;

  constructor(private readonly service: Service) {
    this.character = service.character;
    this.http = new DefaultChatTransport<Message>({
      api: this.address("stream", { protocol: PROTOCOL }),
      headers: () => this.headers(),
      prepareSendMessagesRequest: ({ body = {} }) => ({ body }),
      prepareReconnectToStreamRequest: ({ body }) => ({ api: this.address("stream", { protocol: PROTOCOL, ...body }) }),
    });
    this.transport = {
      resumeStreamIsReplay: true,
      // Of all messages the service wants the newest, and it knows the others.
      sendMessages: async ({ messages, abortSignal }) => {
        const parts = await opened(this.send(messages.at(-1) as Message, abortSignal));
        return parts ?? new ReadableStream({ start: (stream) => stream.close() });
      },
      // The turn that was left, also when it has ended since; otherwise the one that runs, on whatever device it began.
      reconnectToStream: ({ abortSignal }) => opened(this.turn(abortSignal)),
    };
  }

  /** Returns the messages of the session, and the one whose reply was left. */
  async messages(): Promise<Message[]> {
    const address = this.address("history", { character_id: this.character });
    const response = await fetch(address, { headers: await this.headers() });
    if (!response.ok) throw new Error((await response.text()) || `HTTP ${response.status}`);
    const { messages } = (await response.json()) as {
      messages: { msg_id: string; role: Message["role"]; content: string; metadata: { key?: unknown } | null }[];
    };
    const past = messages.map(({ msg_id, role, content }) => message(msg_id, role, content, true));
    const ask = this.open();
    if (!ask || messages.some(({ metadata }) => metadata?.key === ask.key)) {
      this.close(ask);
      return past;
    }
    const replaced = past.findIndex(({ id }) => id === ask.replaces);
    return [...(replaced < 0 ? past : past.slice(0, replaced)), ask.message];
  }

  /** Brings what became of a turn into the messages. To be called with each part that `onData` of `useChat` gets. */
  follow(part: DataUIPart<Parts>, setMessages: (change: (messages: Message[]) => Message[]) => void): void {
    if (part.type === "data-history") setMessages(() => part.data);
    if (part.type === "data-start" || part.type === "data-history" || !part.data.saved) return;
    const { user_msg_id } = part.data;
    // From now on the user's message has the id under which it is stored.
    setMessages((messages) => {
      const newest = messages.findLastIndex(({ role }) => role === "user");
      return messages.map((old, at) => (at === newest ? message(user_msg_id, "user", textOf(old), true) : old));
    });
  }

  /**
   * Stops the turn that runs. Its stream then ends by itself, and what came of the reply is stored. Returns false if
   * nothing runs, or the service cannot be asked.
   */
  async stop(): Promise<boolean> {
    const address = this.address("stream", { character_id: this.character });
    try {
      return (await fetch(address, { method: "DELETE", headers: await this.headers() })).ok;
    } catch {
      return false;
    }
  }

  /** Yields the turn of a message: a new one, unless that message is open. */
  private async *send(asked: Message, signal: AbortSignal | undefined): AsyncGenerator<UIMessageChunk> {
    const open = this.open();
    if (open && open.message.id === asked.id && textOf(open.message) === textOf(asked)) return yield* this.turn(signal);
    // A message that is stored is answered anew.
    let replaces = asked.metadata?.stored ? asked.id : undefined;
    if (open) {
      // The turn of an earlier message may still run. The new one comes after its reply, here and in the history.
      const stored = await this.end(signal);
      if (open.message.id === asked.id) replaces = stored ?? replaces;
    }
    this.keep({ key: generateId(), message: asked, ...(replaces && { replaces }) });
    yield* this.turn(signal, open !== undefined);
  }

  /** Waits for the end of the open turn. Returns the id of its message if it is stored. */
  private async end(signal: AbortSignal | undefined): Promise<string | undefined> {
    let end: Parts["done"] | Parts["error"] | undefined;
    try {
      for await (const part of this.turn(signal)) {
        if (part.type === "data-done" || part.type === "data-error") end = part.data as Parts["done"] | Parts["error"];
      }
    } catch (error) {
      // Unless the service has refused the message: then there is no turn.
      if (this.open()) throw error;
    }
    return end?.saved ? end.user_msg_id : undefined;
  }

  /**
   * Yields the parts of the open turn, or else of the one that runs, over as many connections as it takes. Every
   * connection brings the turn from its beginning; each part, and each piece of the text, is yielded once.
   */
  private async *turn(signal: AbortSignal | undefined, isBehind = false): AsyncGenerator<UIMessageChunk> {
    const seen = new Set<string>();
    let text = 0;
    const ask = this.open();
    let turn = ask?.turn_id;
    let isRecorded = true;
    let failures = 0;
    for (;;) {
      let failure: unknown = new TypeError("network error: the reply ended early");
      try {
        if (isBehind) yield await this.history();
        isBehind = false;
        const stream = await this.connect(ask, turn, signal);
        if (!stream) return;
        let at = 0;
        for await (const part of partsOf(stream)) {
          // Only this response ends here, and the turn goes on.
          if (part.type === "error" && !seen.has("data-error")) break;
          if (part.type === "data-start") {
            const { turn_id, resumable } = part.data as Parts["start"];
            isRecorded = resumable;
            if (resumable) turn = turn_id;
            if (resumable && ask && this.isOpen(ask)) this.keep({ ...ask, turn_id });
          }
          if (part.type === "data-done" || part.type === "data-error") this.close(ask);
          if (part.type === "text-delta") {
            at += part.delta.length;
            if (at <= text) continue;
            yield { ...part, delta: part.delta.slice(text - at) };
            text = at;
          } else if (!seen.has(part.type)) {
            yield part;
            seen.add(part.type);
          } else continue;
          failures = 0;
          if (part.type === "finish" || part.type === "abort" || part.type === "error") return;
        }
      } catch (error) {
        const status = APICallError.isInstance(error) ? error.statusCode : undefined;
        if (status === 404 && (error as Error).message.includes("turn_not_found")) {
          // It was cleared, or is forgotten. The history has it, or nothing has.
          this.close(ask);
          yield await this.history();
          return;
        }
        if (status && !UNDECIDED.includes(status)) this.close(ask);
        if (!(error instanceof TypeError) && !(status && PASSING.includes(status))) throw error;
        failure = error;
      }
      failures += 1;
      if (!isRecorded || failures > ATTEMPTS) throw failure;
      await pause(Math.random() * Math.min(125 * 2 ** failures, 5_000), signal);
    }
  }

  /** Asks for a turn: by its id, or by the message that begins it, with its key, or for the one that runs. */
  private connect(ask: Ask | undefined, turn: string | undefined, abortSignal: AbortSignal | undefined) {
    const chatId = this.character;
    if (turn || !ask) {
      const body = { character_id: chatId, ...(turn && { turn_id: turn }) };
      return this.http.reconnectToStream({ chatId, body, ...(abortSignal && { abortSignal }) });
    }
    const { key, message, replaces } = ask;
    const body = { character_id: chatId, message: textOf(message), replaces, metadata: { key } };
    const headers = { "idempotency-key": key };
    // The body is all that is sent: see `prepareSendMessagesRequest`.
    const unused = { trigger: "submit-message" as const, messageId: undefined, messages: [] };
    return this.http.sendMessages({ ...unused, chatId, body, headers, abortSignal });
  }

  private async history(): Promise<UIMessageChunk> {
    return { type: "data-history", data: await this.messages(), transient: true };
  }

  private open(): Ask | undefined {
    const kept = sessionStorage.getItem(this.key);
    return kept === null ? undefined : (JSON.parse(kept) as Ask);
  }

  private keep(ask: Ask): void {
    sessionStorage.setItem(this.key, JSON.stringify(ask));
  }

  private close(ask: Ask | undefined): void {
    if (this.isOpen(ask)) sessionStorage.removeItem(this.key);
  }

  /** Whether no other message was sent meanwhile, and no end was seen. */
  private isOpen(ask: Ask | undefined): boolean {
    return this.open()?.key === ask?.key;
  }

  private get key(): string {
    return `companion-chat: ${this.character}`;
  }

  private address(resource: string, query: Record<string, string>): string {
    return `${this.service.url}/api/v1/chat/${resource}?${new URLSearchParams(query)}`;
  }

  private async headers(): Promise<Record<string, string>> {
    return { authorization: `Bearer ${await this.service.token()}` };
  }
}

/** Returns why something failed, for the user: the reason that the service gives, if it gives one. */
export function reasonOf(error: Error): string {
  if (error instanceof TypeError) return `The service cannot be reached (${error.message}).`;
  try {
    const problem = JSON.parse(error.message) as { detail?: string; message?: string };
    return problem.detail ?? problem.message ?? error.message;
  } catch {
    return error.message;
  }
}

function message(id: string, role: Message["role"], text: string, stored: boolean): Message {
  return { id, role, parts: [{ type: "text", text }], metadata: { stored } };
}

function textOf(message: Message): string {
  return message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

/** Returns the parts as a stream, as soon as there is one, or null if there is none. */
async function opened(parts: AsyncGenerator<UIMessageChunk>): Promise<ReadableStream<UIMessageChunk> | null> {
  const first = await parts.next();
  if (first.done) return null;
  return new ReadableStream({
    start: (controller) => controller.enqueue(first.value),
    pull: async (controller) => {
      const next = await parts.next();
      if (next.done) controller.close();
      else controller.enqueue(next.value);
    },
    cancel: () => void parts.return(undefined),
  });
}

async function* partsOf(stream: ReadableStream<UIMessageChunk>): AsyncGenerator<UIMessageChunk> {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, milliseconds);
    if (signal?.aborted) reject(signal.reason);
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
