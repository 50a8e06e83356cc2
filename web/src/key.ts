/** Keys that make repeated requests one turn. */

/**
 * Returns a random UUID, of version 4. Pages that are not served by https have no `randomUUID`, and some platforms have
 * no `crypto` at all. A key must be unique among those of one user, so then any random numbers will do.
 */
export function randomKey(): string {
  const source = typeof crypto === "undefined" ? undefined : crypto;
  if (source?.randomUUID) return source.randomUUID();
  const bytes = new Uint8Array(16);
  if (source?.getRandomValues) source.getRandomValues(bytes);
  else bytes.forEach((_, index) => (bytes[index] = Math.floor(Math.random() * 256)));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
