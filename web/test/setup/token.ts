/** Tokens of users, as the backend of an app makes them. */

import { createHmac } from "node:crypto";

/** Returns a token that the secret has signed, and that is valid for so many seconds. */
export function signedToken(secret: string, user: string, lifetimeSeconds = 3600): string {
  const now = Math.floor(Date.now() / 1000);
  const segment = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${segment({ alg: "HS256", typ: "JWT" })}.${segment({ sub: user, iat: now, exp: now + lifetimeSeconds })}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}
