// What the page says, in the chosen language. All texts stand in texts.json. What the service says of itself, its
// messages and the names of presets, is English; other languages have texts for it (`service.`, `preset.`, `note.`,
// `part.`).

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

/** The texts of this language for what the service says itself: the pattern of its words, `{values}` open, and the text. */
const patterns = (prefix) => Object.keys(all[language]).filter((name) => name.startsWith(prefix)).map((name) => ({ name, pattern: name.slice(prefix.length) }));
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/**
 * What the service says, in this language; null where `texts.json` has no text for it, or `own` none for a value.
 * @param {function(string, string): string|null} own the value of a key in this language
 */
export function translated(prefix, words, own = (key, value) => value) {
  for (const { name, pattern } of patterns(prefix)) {
    const keys = [...pattern.matchAll(/\{(\w+)\}/g)].map(([, key]) => key);
    const found = words.match(new RegExp(`^${pattern.split(/\{\w+\}/).map(escaped).join("(.+)")}$`));
    if (!found) continue;
    const values = keys.map((key, index) => [key, own(key, found[index + 1])]);
    return values.some(([, value]) => value === null) ? null : t(name, Object.fromEntries(values));
  }
  return null;
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
