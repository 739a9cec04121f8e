// What the page says, in the chosen language. All texts stand in texts.json. What the service says of itself, its
// messages and the names of presets, is English; other languages have texts for it (`service.`, `preset.`).

const all = await (await fetch(new URL("texts.json", import.meta.url))).json();
const STORED = "s3diff-language";

export const languages = Object.entries(all).map(([code, texts]) => ({ code, name: texts["app.languageName"] }));

const isOffered = (code) => Boolean(all[code]);
const wanted = [localStorage.getItem(STORED), ...navigator.languages.map((each) => each.toLowerCase().split("-")[0])];
let language = wanted.find(isOffered) ?? languages[0].code;

export const currentLanguage = () => language;

/** Whether there is a text of this name. */
export const hasText = (name) => name in all[language];

/** The text of a name, with `{values}` filled in. */
export function t(name, values = {}) {
  const text = all[language][name] ?? name;
  return text.replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);
}

/** A number as people of this language write it. */
export const number = (value, digits = 2) => value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
/** A number with as many digits as it needs, at most `digits` behind the point. */
export const plain = (value, digits = 2) => value.toLocaleString(language, { maximumFractionDigits: digits, useGrouping: false });

/** Write every text that stands in the document: `data-t` is the content, `data-t-label` and `data-t-title` name it. */
export function writeTexts(root = document) {
  document.documentElement.lang = language;
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  for (const element of root.querySelectorAll("[data-t-title]")) element.title = t(element.dataset.tTitle);
}

/** Fill the menu of languages; `changed` is called when another one is chosen. */
export function setUpLanguage(menu, changed) {
  menu.append(...languages.map(({ code, name }) => new Option(name, code, false, code === language)));
  menu.addEventListener("change", () => {
    language = menu.value;
    localStorage.setItem(STORED, language);
    writeTexts();
    changed();
  });
}
