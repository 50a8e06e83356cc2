import { locked } from "../token.ts";
import { say } from "../words.ts";

/** What to do without a token that works. */
export function Locked() {
  const why = locked.value ?? "missing";
  return (
    <section class="locked" role="alert">
      <h2>{say(`${why}Title`)}</h2>
      <p>{say(`${why}Text`)}</p>
    </section>
  );
}
