// Light, dark, or as the system: a button goes round, the browser remembers.

import { t } from "./texts.js";

const NAMES = ["system", "light", "dark"];
const STORED = "s3diff-theme";

/** Returns a function that names the button again, in another language. */
export function setUpTheme(button) {
  let chosen = NAMES.includes(localStorage.getItem(STORED)) ? localStorage.getItem(STORED) : "system";
  const show = () => {
    document.documentElement.style.colorScheme = { system: "light dark", light: "light", dark: "dark" }[chosen];
    button.title = t(`theme.${chosen}`);
    button.setAttribute("aria-label", button.title);
  };
  button.addEventListener("click", () => {
    chosen = NAMES[(NAMES.indexOf(chosen) + 1) % NAMES.length];
    localStorage.setItem(STORED, chosen);
    show();
  });
  show();
  return show;
}
