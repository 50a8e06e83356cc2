import { region, say } from "../words.ts";

const clock = new Intl.DateTimeFormat(region, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(region, { month: "short", day: "numeric" });
const GAP_SECONDS = 30 * 60;

/** Returns a short form for lists: the time of today, else the day. */
export function shortTime(seconds: number): string {
  const days = daysAgo(seconds);
  if (days <= 0) return clock.format(seconds * 1000);
  return days === 1 ? say("yesterday") : day.format(seconds * 1000);
}

/** Returns what stands between two messages, if there is a pause between them. */
export function separator(before: number | undefined, at: number): string | null {
  if (at === 0 || (before !== undefined && at - before < GAP_SECONDS)) return null;
  const days = daysAgo(at);
  const name = days <= 0 ? say("today") : days === 1 ? say("yesterday") : day.format(at * 1000);
  return `${name} ${clock.format(at * 1000)}`;
}

function daysAgo(seconds: number): number {
  const then = new Date(seconds * 1000).setHours(0, 0, 0, 0);
  return Math.round((new Date().setHours(0, 0, 0, 0) - then) / 86_400_000);
}
