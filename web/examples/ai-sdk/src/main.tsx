import { createRoot } from "react-dom/client";

import { Companion } from "./companion.ts";
import { Page } from "./page.tsx";

// In the fragment, which no server and no log gets: #url=http://127.0.0.1:9000&token=…&character=luna
const given = new URLSearchParams(location.hash.slice(1));
const token = given.get("token");
const companion = new Companion({
  url: given.get("url") ?? "http://127.0.0.1:9000",
  token: () => token ?? "",
  character: given.get("character") ?? "luna",
});
// A browser does not load a page again for another fragment.
addEventListener("hashchange", () => location.reload());

const place = document.getElementById("page");
if (place) {
  createRoot(place).render(
    token ? (
      <Page companion={companion} />
    ) : (
      <p role="alert">
        The address names no token. Open this page with <code>#url=…&amp;token=…&amp;character=luna</code> at its end.
      </p>
    ),
  );
}
