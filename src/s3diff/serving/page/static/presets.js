// Named sets of settings, one click each.

import { button } from "./elements.js";
import { hasText, t } from "./texts.js";

export class Presets {
  #buttons = new Map();
  #told;

  /** `chosen` is called with the options of a preset, by field. */
  constructor(root, told, chosen) {
    this.#told = told.presets;
    for (const { name, options } of this.#told) {
      const made = button({}, () => {
        chosen(options);
        this.mark(name);
      });
      this.#buttons.set(name, made);
      root.querySelector(".presets").append(made);
    }
    this.mark(this.#told[0].name); // it has the options' defaults
  }

  /** Show which one the settings are; null for none. */
  mark(chosen) {
    for (const [name, made] of this.#buttons) made.setAttribute("aria-pressed", String(name === chosen));
  }

  /** Show which one sets what `read` returns; none if that throws, as while a value is missing. */
  markLike(read) {
    let wanted = null;
    try {
      wanted = plain(read());
    } catch {
      // a value is missing
    }
    this.mark(this.#told.find(({ options }) => plain(options) === wanted)?.name ?? null);
  }

  /** Name them in the chosen language; those of a user's file have their own words. */
  name() {
    for (const { name, title, summary } of this.#told) {
      const made = this.#buttons.get(name);
      made.textContent = hasText(`preset.${name}`) ? t(`preset.${name}`) : title;
      made.title = hasText(`preset.${name}.info`) ? t(`preset.${name}.info`) : summary;
    }
  }
}

/** Options as a text that is the same for the same values: "+0.3" and "+0.30", 2 and "2". */
function plain({ model: _, ...options }) {
  const number = (text) => (text === "" || Number.isNaN(Number(text)) ? text : String(Number(text)));
  const same = (value) => (typeof value === "string" && /^[+-]/.test(value) ? value[0] + number(value.slice(1)) : number(String(value)));
  return JSON.stringify(Object.entries(options).map(([name, value]) => [name, same(value)]).sort());
}
