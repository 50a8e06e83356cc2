import { useLayoutEffect, useRef } from "preact/hooks";
import type { Prose } from "../prose.ts";

/** A paragraph that is this long ends with its line, so that growing text makes the browser lay out only its end. */
const BLOCK = 400;

/**
 * The text of a message, as text: nothing in it is markup. While it grows, what has come since the last frame is added
 * to the last text node. The frame is never late because of text that is shown already.
 */
export function Body({ prose, live }: { prose: Prose; live: boolean }) {
  const element = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    if (!element.current) return;
    const writer = new Writer(element.current);
    writer.write(prose.text);
    const end = prose.watch((added) => (added === null ? writer.clear() : writer.queue(added)));
    return () => {
      end();
      writer.end();
    };
  }, [prose]);
  return <div ref={element} class={live ? "body live" : "body"} />;
}

class Writer {
  #queued = "";
  #frame = 0;
  #block: Text | null = null;
  #length = 0;

  constructor(private readonly element: HTMLElement) {
    element.replaceChildren();
  }

  queue(text: string): void {
    this.#queued += text;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      const queued = this.#queued;
      this.#queued = "";
      this.write(queued);
    });
  }

  write(text: string): void {
    let rest = text;
    while (rest) {
      // The line break stays at the end of its block, where it makes no line of its own.
      const room = Math.max(0, BLOCK - this.#length);
      const lineEnd = rest.indexOf("\n", room);
      const piece = lineEnd < 0 ? rest : rest.slice(0, lineEnd + 1);
      this.#append(piece);
      if (lineEnd >= 0) this.#block = null;
      rest = rest.slice(piece.length);
    }
  }

  clear(): void {
    this.end();
    this.#block = null;
    this.element.replaceChildren();
  }

  end(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#queued = "";
  }

  #append(text: string): void {
    if (this.#block) {
      this.#block.appendData(text);
      this.#length += text.length;
      return;
    }
    this.#block = document.createTextNode(text);
    this.#length = text.length;
    const block = document.createElement("div");
    block.dir = "auto";
    block.append(this.#block);
    this.element.append(block);
  }
}
