import { render } from "preact";
import { House } from "./house.ts";
import { goTo, watchPlace } from "./place.ts";
import { watchToken } from "./token.ts";
import { App } from "./view/app.tsx";
import { language } from "./words.ts";

document.documentElement.lang = language;
watchToken();
const root = document.getElementById("app");
const house = new House();
watchPlace(house);
if (root) render(<App house={house} goTo={(id) => goTo(house, id)} />, root);
