/** The client of companion-chat: one object that talks to the service as one user. */

import type { components } from "./api.js";
import { Connection, parse, path, requireType, type Ask, type Service } from "./connection.js";
import { ChatError } from "./errors.js";
import { randomKey } from "./key.js";
import { follow } from "./turn.js";

export { ChatError } from "./errors.js";
export type { ErrorDetails } from "./errors.js";

/** A page of stored messages, oldest first. */
export type History = components["schemas"]["History"];
/** A page of the user's sessions, newest first. */
export type Sessions = components["schemas"]["Sessions"];
/** What may be shown of a character. */
export type Character = components["schemas"]["Character"];
/** One line of an export. The last is of type `end`. */
export type ExportItem = Exclude<components["schemas"]["ExportLine"], { type: "error" }>;
/** What was erased. */
export type Erased = components["schemas"]["Erased"];

export interface ClientOptions {
  /** The address of the service, without `/api/v1/…`. Empty in a page that the same server serves. */
  baseUrl: string;
  /**
   * The user's token, or a callback that returns it. The callback is called for every request, and once more when the
   * service has refused the token, so it may keep a token, but not one that has expired.
   */
  token: string | (() => string | Promise<string>);
  /** The function to use instead of the platform's `fetch`: in React Native, that of `expo/fetch`. */
  fetch?: typeof fetch;
  /**
   * How long a turn is looked for when its connection is lost, in ms: as long as the service remembers a turn
   * (`TURN_TTL_SECONDS`). The default is 3,600,000, an hour.
   */
  turnLifetimeMs?: number;
}

/** What happens in a turn, in this order: `start`, any number of `text`, and `done`. */
export type TurnEvent =
  | {
      /**
       * The turn has begun. This comes once more, with another id, if the service forgot the turn before any text came
       * and the turn had to begin again. `resume` with `after` leaves it out.
       */
      type: "start";
      turnId: string;
      /** Whether the character remembers: `unavailable` if the memory could not be read. */
      memory: "ok" | "empty" | "unavailable";
      /** How many remembered messages the model is sent. */
      historyMessages: number;
      /** Whether the turn survives a lost connection, and can be stopped. */
      resumable: boolean;
    }
  | {
      /** The next piece of the reply. Each character comes once, whatever happens to the connection. */
      type: "text";
      text: string;
    }
  | {
      /** The connection was lost, and the client tries to come back, or is back. It may come at any time. */
      type: "connection";
      state: "lost" | "back";
    }
  | {
      /** The reply is complete. Nothing follows. */
      type: "done";
      turnId: string;
      /** The id of the reply, as in the history. */
      msgId: string;
      /** The id of the user's message, as in the history: for `regenerate`, `edit` and `rewind`. */
      userMsgId: string;
      finishReason: "stop" | "length" | "content_filter" | "stopped";
      /** Whether the message and the reply are stored. */
      saved: boolean;
      /** Why they are not stored. */
      unsaved?: "cleared" | "conflict" | "memory" | "empty";
      usage: { promptTokens: number; completionTokens: number };
    };

export interface TurnOptions {
  /** Ends the events at once, with a ChatError `aborted`. The turn goes on at the service: `stop` stops it. */
  signal?: AbortSignal;
  /** Stored with the message: a JSON object of at most 2 KiB. The call throws a TypeError if JSON cannot hold it. */
  metadata?: object;
  /** The user's name, for the places where the character's card has `{{user}}`. */
  userName?: string;
  /** Which greeting of the character was shown, from 0. */
  greeting?: number;
  /**
   * What makes repeated requests one turn: 1 to 255 visible ASCII characters. The client makes one for each call. A
   * caller who keeps it can make the same call again, after the page was loaded again or the call failed without
   * `saved`, and gets the same turn from its beginning.
   */
  key?: string;
  /** Called with each piece of text, before the event is returned. */
  onText?: (text: string) => void;
}

const DEFAULT_TURN_LIFETIME_MS = 3_600_000;
/** Longer than a request takes that starts a function, and waits for Redis as long as it may. */
const REQUEST_TIMEOUT_MS = 30_000;

/**
 * A client of the service, as one user. It keeps no state but its options, so one is enough for a whole app.
 *
 * Methods that return events or lines do nothing until they are iterated, and are iterated once. Leaving the loop closes
 * the connection. All errors of the service and of the connection are a `ChatError`.
 */
export class CompanionChat {
  private readonly service: Service;
  private readonly turnLifetimeMs: number;

  constructor(options: ClientOptions) {
    const baseUrl = options.baseUrl.replace(/\/+$/, "");
    // With any other address `fetch` fails as if the network were gone, and the client would try again for an hour.
    if (baseUrl !== "" && !/^(https?:\/\/[^/]|\/)/.test(baseUrl)) {
      throw new TypeError(`baseUrl must begin with http:// or https://, or be a path: ${options.baseUrl}`);
    }
    this.service = {
      baseUrl,
      token: options.token,
      // Called as a function, because that of browsers fails as a method of another object.
      fetch: options.fetch ?? ((url, init) => fetch(url, init)),
    };
    this.turnLifetimeMs = options.turnLifetimeMs ?? DEFAULT_TURN_LIFETIME_MS;
  }

  /**
   * Sends a message, and yields the reply as it is written, up to `done`.
   *
   * A lost connection is made again, with pauses from 250 ms to 5 s and as long as the service remembers the turn: the
   * same message is never answered twice, and the reply goes on where it was cut. Leaving the loop, or aborting the
   * signal, does not stop the turn: it is completed and stored. `stop` stops it.
   *
   * Throws a ChatError: with `saved`, if the turn failed; with the code `connection_lost`, if it could not be found
   * again; or as the service refused it.
   */
  send(character: string, message: string, options: TurnOptions = {}): AsyncIterable<TurnEvent> {
    return this.begin(character, { message }, options);
  }

  /**
   * Has a stored message of the user answered anew. When the new reply is complete, it takes the place of that message
   * and of all after it; until then the old messages stay. `msgId` is that of the user's message.
   *
   * Yields and throws as `send`, and throws a ChatError `message_not_found` if the message is not stored.
   */
  regenerate(character: string, msgId: string, options: TurnOptions = {}): AsyncIterable<TurnEvent> {
    return this.begin(character, { replaces: msgId }, options);
  }

  /** Puts another message in the place of a stored one of the user, as `regenerate` does with the same message. */
  edit(character: string, msgId: string, message: string, options: TurnOptions = {}): AsyncIterable<TurnEvent> {
    return this.begin(character, { message, replaces: msgId }, options);
  }

  /**
   * Comes back to a turn, from this device or another, and yields its events as `send` does. Without `turnId` it is the
   * newest turn with this character that runs, and if none runs, there are no events.
   *
   * `after` is the number of bytes of the reply, in UTF-8, that the caller has: `start` and that much text are left out.
   * Throws a ChatError `turn_not_found` if the turn is not remembered.
   */
  resume(
    character: string,
    options: { turnId?: string; after?: number; signal?: AbortSignal } = {},
  ): AsyncIterable<TurnEvent> {
    const { turnId, after, signal } = options;
    return follow(this.service, { character, turnId, after }, { signal, turnLifetimeMs: this.turnLifetimeMs });
  }

  /**
   * Asks a turn to stop, or the newest one with this character that runs. It ends within a second, with the finish
   * reason `stopped`, and what was sent of the reply is stored. Returns false if nothing runs.
   */
  async stop(character: string, turnId?: string): Promise<boolean> {
    try {
      await this.request("DELETE", path("stream", { character_id: character, turn_id: turnId }));
      return true;
    } catch (error) {
      if (error instanceof ChatError && error.code === "turn_not_found") return false;
      throw error;
    }
  }

  /**
   * Returns the newest messages, or those before the message `before`: at most `limit`, which is 1 to 100, and 50 if it
   * is not given. To read on while `has_more` is true, pass the `msg_id` of the first message of this page.
   *
   * A conversation that has not begun has no messages, and the `greeting` of a character that has one, with `userName`
   * in it.
   */
  history(
    character: string,
    options: { limit?: number; before?: string; userName?: string } = {},
  ): Promise<History> {
    const { limit, before, userName } = options;
    return this.request("GET", path("history", { character_id: character, limit, before, user_name: userName }));
  }

  /** Returns the user's sessions. To read on, pass `next` as `before`, until it is null. */
  sessions(options: { limit?: number; before?: string } = {}): Promise<Sessions> {
    return this.request("GET", path("sessions", { limit: options.limit, before: options.before }));
  }

  /** Removes a message and all after it. With a reply goes the message that it answers. */
  async rewind(character: string, fromMsgId: string): Promise<void> {
    await this.request("DELETE", path("history", { character_id: character, from: fromMsgId }));
  }

  /** Removes the whole conversation. A turn that still runs is not stored. */
  async clear(character: string): Promise<void> {
    await this.request("DELETE", path("history", { character_id: character }));
  }

  /** Returns what may be shown of a character. `userName` is the user's name in its greetings. */
  character(id: string, options: { userName?: string } = {}): Promise<Character> {
    return this.request("GET", path("character", { character_id: id, user_name: options.userName }));
  }

  /**
   * Yields everything that is kept about the user, while it is read. The last item is of type `end`.
   *
   * Throws a ChatError if the export is not complete: `memory_unavailable` or `connection_lost`.
   */
  async *exportData(): AsyncGenerator<ExportItem, void, undefined> {
    const connection = new Connection(this.service, REQUEST_TIMEOUT_MS);
    let hasBegun = false;
    try {
      const response = await connection.send({ method: "GET", path: path("data") });
      // Before the first line: the page of another server may have none.
      requireType(response, "application/x-ndjson");
      hasBegun = true;
      for await (const line of lines(connection.read(response))) {
        const item = parse<components["schemas"]["ExportLine"]>(line, response.status);
        if (item.type === "error") {
          throw new ChatError(item.code, "the export is not complete", { detail: item.detail });
        }
        yield item;
        if (item.type === "end") return;
      }
      throw new ChatError("connection_lost", "the export ended before its last line");
    } catch (error) {
      // A cut is told as an end that came too early is: which of the two comes is up to what is between.
      const isCut = hasBegun && error instanceof ChatError && error.code === "unreachable";
      throw isCut ? new ChatError("connection_lost", "the export was cut", { cause: error }) : error;
    } finally {
      connection.close();
    }
  }

  /** Erases everything that is kept about the user. A turn that still runs is not stored. */
  eraseData(): Promise<Erased> {
    return this.request("DELETE", path("data"));
  }

  private begin(
    character: string,
    asked: { message?: string; replaces?: string },
    options: TurnOptions,
  ): AsyncIterable<TurnEvent> {
    const key = options.key ?? randomKey();
    if (!/^[!-~]{1,255}$/.test(key)) {
      throw new TypeError("key must be 1 to 255 visible ASCII characters");
    }
    const { metadata, userName, greeting, signal, onText } = options;
    requireJson("metadata", metadata);
    const body = JSON.stringify({ character_id: character, ...asked, metadata, user_name: userName, greeting });
    const plan = { character, begin: { body, key } };
    return follow(this.service, plan, { signal, onText, turnLifetimeMs: this.turnLifetimeMs });
  }

  private async request<T>(method: Ask["method"], path: string): Promise<T> {
    const connection = new Connection(this.service, REQUEST_TIMEOUT_MS);
    try {
      return await connection.json<T>(await connection.send({ method, path }));
    } finally {
      connection.close();
    }
  }
}

/** Throws a TypeError that names the option, unless JSON can hold its value. It holds no bigint and no circle. */
function requireJson(name: string, value: object | undefined): void {
  let problem = "";
  try {
    // What JSON has no text for, such as a function, would be left out without a word.
    if (value !== undefined && JSON.stringify(value) === undefined) problem = "it has no text in JSON";
  } catch (error) {
    problem = error instanceof Error ? error.message : String(error);
  }
  if (problem) throw new TypeError(`${name} must be an object that JSON can hold: ${problem}`);
}

/** Yields the lines of a text that comes in pieces. A line that does not end is left out. */
async function* lines(pieces: AsyncIterable<string>): AsyncGenerator<string, void, undefined> {
  let begun: string[] = [];
  for await (const piece of pieces) {
    const [first = "", ...others] = piece.split("\n");
    begun.push(first);
    for (const next of others) {
      yield begun.join("");
      begun = [next];
    }
  }
}
