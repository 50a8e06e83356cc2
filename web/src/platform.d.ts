// All that the library uses of its platform: the part that browsers, Node, Deno and React Native with `expo/fetch` have
// in common. Only tsconfig.build.json reads this file, in the place of the types of one platform, so that the compiler
// refuses everything else. The names are those of the platforms, so that the built declarations refer to theirs.

interface AbortSignal {
  readonly aborted: boolean;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

declare class AbortController {
  readonly signal: AbortSignal;
  abort(): void;
}

interface Headers {
  get(name: string): string | null;
}

interface ReadableStreamDefaultReader<T> {
  read(): Promise<{ done: boolean; value?: T | undefined }>;
  cancel(): Promise<void>;
}

interface ReadableStream<T> {
  getReader(): ReadableStreamDefaultReader<T>;
  cancel(): Promise<void>;
}

interface Response {
  readonly ok: boolean;
  readonly status: number;
  readonly headers: Headers;
  readonly body: ReadableStream<Uint8Array> | null;
  text(): Promise<string>;
}

interface RequestInit {
  method?: string;
  headers?: Record<string, string>;
  body?: string;
  signal?: AbortSignal | null;
  cache?: "no-store";
}

declare function fetch(url: string, init?: RequestInit): Promise<Response>;

declare class TextDecoder {
  decode(bytes?: Uint8Array, options?: { stream?: boolean }): string;
}

declare function setTimeout(run: () => void, milliseconds: number): number;
declare function clearTimeout(timer: number): void;

declare const crypto: undefined | { randomUUID?: () => string; getRandomValues?: (bytes: Uint8Array) => Uint8Array };
