// Pictures for characters, drawn from their ids: no picture is ever loaded.

/** Hues that look well at night and on paper: none of the muddy ones between yellow and green. */
const HUES = [12, 35, 55, 158, 178, 200, 225, 250, 272, 295, 320, 345];

/** Returns the hue of a character, in degrees: the same for the same id. */
export function hueOf(id: string): number {
  return HUES[hashOf(id) % HUES.length] ?? 250;
}

/** A disc with a second one over it, like a phase of the moon, and the first letter of the name. */
export function Avatar({ id, name, size }: { id: string; name: string; size: number }) {
  const hash = hashOf(id);
  const hue = hueOf(id);
  const angle = (-150 + ((hash >>> 9) % 120)) * (Math.PI / 180);
  const distance = 16 + ((hash >>> 18) % 8);
  const [letter = "?"] = name;
  return (
    <svg class="avatar" width={size} height={size} viewBox="0 0 48 48" aria-hidden="true">
      <rect width="48" height="48" fill={`oklch(0.56 0.1 ${hue})`} />
      <circle
        cx={24 + distance * Math.cos(angle)}
        cy={24 - distance * Math.sin(angle)}
        r="24"
        fill={`oklch(0.43 0.085 ${hue + 18})`}
      />
      <text x="24" y="31" text-anchor="middle" font-size="20" font-weight="600" fill="#fff">
        {letter.toUpperCase()}
      </text>
    </svg>
  );
}

/** FNV-1a, of 32 bits, with its bits mixed once more: ids of a few letters differ in the low ones alone. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d) >>> 0;
  return (hash ^ (hash >>> 13)) >>> 0;
}
