/** One turn as the caller sees it, over as many connections as it takes. */

import { createParser, type EventSourceMessage } from "eventsource-parser";

import type { components } from "./api.js";
import type { TurnEvent } from "./client.js";
import { type Ask, Connection, parse, path, requireType, type Service } from "./connection.js";
import { aborted, ChatError } from "./errors.js";

type Schemas = components["schemas"];

/** The service sends at least a comment every 15 s, so a stream that is silent for longer than this is dead. */
const SILENCE_MS = 40_000;
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5_000;
/** How often a service that is there, but cannot begin the turn now, is asked again. */
const REFUSALS = 4;
/** The longest `Retry-After` that is waited for: beyond it the caller decides. */
const LONGEST_RETRY_AFTER_SECONDS = 10;

/** What to follow: a message that begins a turn, or a turn that has begun. */
export interface Plan {
  readonly character: string;
  /** The request that begins the turn, with the key that makes all of them one turn. */
  readonly begin?: { readonly body: string; readonly key: string };
  readonly turnId?: string | undefined;
  /** The number of bytes of the reply, in UTF-8, that the caller has already. */
  readonly after?: number | undefined;
}

export interface FollowOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onText?: ((text: string) => void) | undefined;
  readonly turnLifetimeMs: number;
}

/** Yields the events of a turn, each piece of text once, and comes back to the turn when the connection is lost. */
export function follow(service: Service, plan: Plan, options: FollowOptions): AsyncGenerator<TurnEvent> {
  return new Follower(service, plan, options).events();
}

class Follower {
  private turnId: string | undefined;
  /** The turn whose `start` the caller has seen. */
  private startedId: string | undefined;
  /** The number of bytes of text that came, once it is known where the text begins. */
  private bytes: number | undefined;
  private hasText = false;
  /** Whether an event has come: from then on there is a turn to come back to. */
  private begun = false;
  private resumable = true;
  private isLost = false;
  private attempts = 0;
  private refusals = 0;
  private deadline = 0;

  constructor(
    private readonly service: Service,
    private readonly plan: Plan,
    private readonly options: FollowOptions,
  ) {
    this.turnId = plan.turnId;
    this.bytes = plan.after;
  }

  async *events(): AsyncGenerator<TurnEvent> {
    for (;;) {
      const connection = new Connection(this.service, SILENCE_MS, this.options.signal);
      let failure: unknown;
      let isDone = false;
      try {
        const response = await connection.send(this.ask());
        if (response.status === 204) {
          if (!this.begun) return;
          throw this.lost();
        }
        requireType(response, "text/event-stream");
        if (this.isLost) {
          this.isLost = false;
          yield { type: "connection", state: "back" };
        }
        for await (const message of readMessages(connection, response)) {
          for (const event of this.take(message, response.status)) {
            // Several events may have come together, before the signal was aborted.
            if (this.options.signal?.aborted) throw aborted();
            if (event.type === "text") this.options.onText?.(event.text);
            yield event;
            if (event.type === "done") {
              isDone = true;
              connection.expectEnd();
            }
          }
        }
      } catch (error) {
        failure = error;
      } finally {
        connection.close();
      }
      // Whatever happened after the last event is of no interest.
      if (isDone) return;
      const pauseMs = this.pauseAfter(failure);
      if (!this.isLost && !isRefusal(failure)) {
        this.isLost = true;
        yield { type: "connection", state: "lost" };
      }
      await sleep(pauseMs, this.options.signal);
    }
  }

  /** Returns the next request: the message itself, until its turn is known. */
  private ask(): Ask {
    const { character, begin } = this.plan;
    if (begin && this.turnId === undefined) {
      const headers = { "content-type": "application/json", "idempotency-key": begin.key };
      return { method: "POST", path: path("stream"), headers, body: begin.body };
    }
    const query = { character_id: character, turn_id: this.turnId, after: this.bytes };
    return { method: "GET", path: path("stream", query) };
  }

  /** Yields what a message of the stream is for the caller: nothing, if it was seen before. */
  private *take(message: EventSourceMessage, status: number): Generator<TurnEvent> {
    if (message.event === "start") {
      const start = parse<Schemas["Start"]>(message.data, status);
      const isRepeated = start.turn_id === this.startedId;
      this.startedId = start.turn_id;
      this.turnId = start.turn_id;
      this.resumable = start.resumable;
      this.bytes ??= 0;
      this.progress();
      if (isRepeated) return;
      yield {
        type: "start",
        turnId: start.turn_id,
        memory: start.memory,
        historyMessages: start.history_messages,
        resumable: start.resumable,
      };
    } else if (message.event === "error") {
      const failed = parse<Schemas["Failed"]>(message.data, status);
      throw new ChatError(failed.code, `the turn failed: ${failed.code}`, {
        detail: failed.error,
        saved: failed.saved,
        turnId: failed.turn_id,
      });
    } else if ((message.event ?? "message") === "message") {
      const said = parse<Schemas["Delta"] | Schemas["Done"]>(message.data, status);
      if (said.done) {
        yield {
          type: "done",
          turnId: said.turn_id,
          msgId: said.msg_id,
          userMsgId: said.user_msg_id,
          finishReason: said.finish_reason,
          saved: said.saved,
          ...(said.unsaved === undefined ? {} : { unsaved: said.unsaved }),
          usage: { promptTokens: said.usage.prompt_tokens, completionTokens: said.usage.completion_tokens },
        };
        return;
      }
      if (!/^[0-9]+$/.test(message.id ?? "")) {
        throw new ChatError("bad_response", "a piece of text has no number of bytes as its id", { status });
      }
      const bytes = Number(message.id);
      if (this.bytes !== undefined && bytes <= this.bytes) return;
      this.bytes = bytes;
      this.hasText = true;
      this.progress();
      yield { type: "text", text: said.content };
    }
  }

  private progress(): void {
    this.begun = true;
    this.attempts = 0;
    this.refusals = 0;
  }

  /** Returns how long to wait until the next request, in ms. Throws if there is none to make. */
  private pauseAfter(failure: unknown): number {
    if (failure instanceof ChatError) {
      if (this.turnId !== undefined) failure.turnId ??= this.turnId;
      const known = failure.code === "turn_not_found" && this.turnId !== undefined;
      if (known && this.plan.begin && !this.hasText) {
        // The record is gone before the caller has seen anything of the reply: the key leads to the turn, or begins it.
        this.turnId = undefined;
        this.bytes = undefined;
      } else if (!this.mayAskAgain(failure)) {
        throw failure;
      }
    } else if (failure !== undefined) {
      throw failure;
    }
    // Without a failure, the stream ended before its last event, which is the same as a cut.
    if (!this.resumable) throw this.lost(failure);
    const now = Date.now();
    if (this.attempts === 0) this.deadline = now + this.options.turnLifetimeMs;
    const longest = Math.min(FIRST_PAUSE_MS * 2 ** this.attempts, LONGEST_PAUSE_MS);
    this.attempts += 1;
    const atLeast = failure instanceof ChatError ? (failure.retryAfterSeconds ?? 0) * 1000 : 0;
    // All clients of a service that was restarted come back, so the pauses are spread evenly, from none at all.
    const pauseMs = atLeast + Math.random() * longest;
    if (now + pauseMs > this.deadline) throw this.begun ? this.lost(failure) : (failure ?? this.lost());
    return pauseMs;
  }

  private mayAskAgain(failure: ChatError): boolean {
    if (failure.code === "unreachable") return true;
    if (this.begun) return isRefusal(failure) || failure.code === "token_unavailable";
    this.refusals += 1;
    const seconds = failure.retryAfterSeconds ?? 0;
    return isRefusal(failure) && this.refusals <= REFUSALS && seconds <= LONGEST_RETRY_AFTER_SECONDS;
  }

  private lost(cause?: unknown): ChatError {
    const message = this.resumable
      ? "the connection was lost, and the turn could not be found again"
      : "the connection was lost, and this turn cannot be resumed because it is not recorded";
    return new ChatError("connection_lost", message, { turnId: this.turnId, cause });
  }
}

/** Whether the service, or the gateway before it, is there but cannot answer at the moment. */
function isRefusal(failure: unknown): boolean {
  if (!(failure instanceof ChatError)) return false;
  return failure.status === 502 || failure.status === 503 || failure.status === 504;
}

async function* readMessages(connection: Connection, response: Response): AsyncGenerator<EventSourceMessage> {
  let messages: EventSourceMessage[] = [];
  const parser = createParser({ onEvent: (message) => messages.push(message) });
  for await (const text of connection.read(response)) {
    parser.feed(text);
    const complete = messages;
    messages = [];
    yield* complete;
  }
}

/** Waits, or throws as soon as the signal is aborted. */
function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(aborted());
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(aborted());
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", onAbort);
  });
}
