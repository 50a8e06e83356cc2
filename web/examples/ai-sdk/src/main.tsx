import { createRoot } from "react-dom/client";

import { Companion } from "./companion.ts";
import { Page } from "./page.tsx";

// In the fragment, which no server and no log gets: #url=http://127.0.0.1:9000&token=…&character=luna
const given = new URLSearchParams(location.hash.slice(1));
const companion = new Companion({
  url: given.get("url") ?? "http://127.0.0.1:9000",
  token: () => given.get("token") ?? "",
  character: given.get("character") ?? "luna",
});

const place = document.getElementById("page");
if (place) createRoot(place).render(<Page companion={companion} />);
