import { locked } from "../token.ts";
import { say } from "../words.ts";

/** What to do without a token that works. */
export function Locked() {
  const isExpired = locked.value === "expired";
  return (
    <section class="locked" role="alert">
      <h2>{isExpired ? say("expiredTitle") : say("missingTitle")}</h2>
      <p>{isExpired ? say("expiredText") : say("missingText")}</p>
    </section>
  );
}
