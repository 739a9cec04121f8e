// The panel's controls: made from what the service offers, each with its name, its value and its error.

import { element } from "./elements.js";
import { SizeFields } from "./size_fields.js";
import { hasText, t } from "./texts.js";
import { degreeInWords, said } from "./words.js";

export class Controls {
  #controls;
  #told;
  #does;
  #parts = new Map(); // field: {read, write, root}

  /**
   * @param {Element} root holds the elements with `data-groups`, into which the controls go
   * @param {object} told what the service offers: controls, withoutPrompts, withoutTinyDecoder, lossyFormats
   * @param {object} does
   * @param {Function} does.changed called with the field that somebody changed, and its value
   * @param {Function} does.entered called when the Enter key is pressed in a field
   */
  constructor(root, told, does) {
    [this.#controls, this.#told, this.#does] = [told.controls, told, does];
    for (const place of root.querySelectorAll("[data-groups]")) {
      const groups = place.dataset.groups.split(" ");
      const made = new Map(groups.map((group) => [group, []]));
      for (const control of this.#controls) made.get(control.group)?.push(this.#make(control));
      place.prepend(...made.get(groups[0]));
      for (const group of groups.slice(1)) place.append(...made.get(group));
    }
    this.name();
    this.reset();
  }

  get all() {
    return this.#controls;
  }

  value(field) {
    return this.#parts.get(field).read();
  }

  /** Move a control; nobody is told. */
  set(field, value) {
    this.#parts.get(field).write(value);
    this.arrange();
  }

  reset() {
    for (const { field, start } of this.#controls) this.#parts.get(field).write(start);
    this.arrange();
  }

  /** Whether a control has a say: the chosen model, size and format can use it. */
  isUsed(field) {
    const value = (name) => this.value(name);
    if (this.#told.sizeFields.includes(field)) return field === value("size_by");
    if (field === "size_mode") return value("size_by") === "size";
    if (field === "seed") return value("latent") === "sample";
    if (field.endsWith("_prompt")) return !this.#told.withoutPrompts.includes(value("model"));
    if (field === "decoder") return !this.#told.withoutTinyDecoder.includes(value("model"));
    if (field === "quality") return !value("format") || this.#told.lossyFormats.includes(value("format"));
    return field !== "size_by";
  }

  /** Show the controls that have a say. */
  arrange() {
    for (const { field } of this.#controls) this.#parts.get(field).root.hidden = field !== "size_by" && !this.isUsed(field);
  }

  /** The proportions that the lock between width and height keeps. */
  keepProportion(width, height) {
    this.#parts.get("size").keepProportion(width, height);
  }

  /** Name every control in the chosen language. */
  name() {
    for (const control of this.#controls) {
      const part = this.#parts.get(control.field);
      const { root } = part;
      const [label, info] = ["", ".info"].map((ending) => textOf(control, ending, this.#told.values));
      root.querySelector(".label").textContent = label;
      root.querySelector(".info").textContent = info;
      root.querySelector(".info").hidden = !info;
      for (const choice of root.querySelectorAll("[data-choice]")) choice.textContent = choiceText(control, choice.dataset.choice);
      part.name?.(label);
    }
  }

  /** Put an error beside the control that caused it; false where there is no such control in sight. */
  blame(error) {
    const { field } = error;
    const root = this.#parts.get(field)?.root;
    if (!root || root.hidden) return false;
    const folded = root.closest("details");
    if (folded) folded.open = true;
    let text = root.querySelector(".control-error");
    if (!text) {
      text = element("p", { className: "control-error", id: `error-${field}` });
      text.setAttribute("role", "alert");
      root.append(text);
    }
    const { allowed } = this.#controls.find((each) => each.field === field);
    text.textContent = said(error, isOutside(this.value(field), allowed) ? allowed : null);
    root.classList.add("has-error");
    for (const input of root.querySelectorAll("input, select")) {
      input.setAttribute("aria-invalid", "true");
      input.setAttribute("aria-describedby", text.id);
    }
    return true;
  }

  isBlamed(field) {
    return Boolean(this.#parts.get(field)?.root.classList.contains("has-error"));
  }

  forgive() {
    for (const { root } of this.#parts.values()) {
      root.querySelector(".control-error")?.remove();
      root.classList.remove("has-error");
      for (const input of root.querySelectorAll("[aria-invalid]")) {
        input.removeAttribute("aria-invalid");
        input.removeAttribute("aria-describedby");
      }
    }
  }

  #make(control) {
    const changed = () => {
      this.arrange();
      this.#does.changed(control.field, this.value(control.field));
    };
    const part = MAKERS[control.kind](control, changed);
    part.root.id = `control-${control.field}`;
    part.root.classList.add("control", `is-${control.kind}`);
    part.root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target.matches("input:not([type=radio], [type=checkbox])")) this.#does.entered();
    });
    this.#parts.set(control.field, part);
    return part.root;
  }
}

const isOutside = (value, allowed) =>
  Boolean(allowed) && (value === null || value < allowed.low || value > allowed.high || (allowed.isOpen && value === allowed.low));

const textOf = ({ field, label, info }, ending, values) => {
  const name = `control.${field}${ending}`;
  return hasText(name) ? t(name, values) : ending ? info : label || field;
};

const choiceText = ({ field, titles }, value) => {
  const name = `choice.${field}.${value || "none"}`;
  return hasText(name) ? t(name) : titles?.[value] ?? value;
};

const label = (id) => element("label", { className: "label", htmlFor: id });
const info = () => element("p", { className: "info", hidden: true });
const numberOf = (input) => (input.value === "" ? null : Number(input.value));
const textFrom = (value) => (value === null || value === undefined ? "" : String(value));

const MAKERS = {
  /** A range with a number beside it; null stands for "auto". */
  slider({ field, low, high, step }, changed) {
    const about = { min: low, max: high, step };
    const range = element("input", { type: "range", ...about });
    const box = element("input", { type: "number", id: `value-${field}`, ...about, inputMode: "decimal" });
    const words = element("output", { className: "words" });
    const root = element("div", {}, element("div", { className: "top" }, label(box.id), words, box), range, info());
    const show = (value) => {
      [range.value, box.value] = [value ?? low, textFrom(value)];
      const isAuto = value === null || value === undefined;
      root.classList.toggle("is-auto", isAuto);
      words.textContent = !isAuto && hasText(`degree.${field}.0`) ? degreeInWords(field, Number(value)) : "";
      range.setAttribute("aria-valuetext", isAuto ? t("dial.auto") : [value, words.textContent].filter(Boolean).join(", "));
    };
    range.addEventListener("input", () => {
      show(Number(range.value));
      changed();
    });
    box.addEventListener("change", () => {
      show(box.value === "" ? null : Math.min(high, Math.max(low, Number(box.value))));
      changed();
    });
    const name = (text) => {
      range.setAttribute("aria-label", text);
      box.placeholder = t("dial.auto");
      show(numberOf(box));
    };
    return { root, read: () => numberOf(box), write: show, name };
  },

  number({ field, step, placeholder }, changed) {
    const box = element("input", { type: "number", id: `value-${field}`, step: "any", placeholder, inputMode: step < 1 ? "decimal" : "numeric" });
    box.addEventListener("input", changed);
    return plainPart(box, () => numberOf(box));
  },

  text({ field, placeholder }, changed) {
    const box = element("input", { type: "text", id: `value-${field}`, placeholder, autocomplete: "off", spellcheck: false });
    box.addEventListener("input", changed);
    return plainPart(box, () => box.value);
  },

  menu({ field, choices }, changed) {
    const menu = element("select", { id: `value-${field}` });
    for (const value of choices) {
      const option = element("option", { value });
      option.dataset.choice = value;
      menu.append(option);
    }
    menu.addEventListener("change", changed);
    return plainPart(menu, () => menu.value);
  },

  switch({ field }, changed) {
    const box = element("input", { type: "checkbox", id: `value-${field}` });
    box.addEventListener("change", changed);
    const root = element("div", {}, box, label(box.id), info());
    return { root, read: () => box.checked, write: (value) => (box.checked = Boolean(value)) };
  },

  choice({ field, choices }, changed) {
    const root = element("fieldset", {}, element("legend", { className: "label" }));
    const row = element("div", { className: "choices" });
    for (const value of choices) {
      const input = element("input", { type: "radio", name: field, value });
      const words = element("span");
      words.dataset.choice = value;
      row.append(element("label", {}, input, words));
      input.addEventListener("change", changed);
    }
    root.append(row, info());
    return {
      root,
      read: () => root.querySelector("input:checked")?.value ?? null,
      write: (value) => {
        for (const input of root.querySelectorAll("input")) input.checked = input.value === value;
      },
    };
  },

  size: (_, changed) => new SizeFields(changed),
};

function plainPart(input, read) {
  const root = element("div", {}, label(input.id), input, info());
  return { root, read, write: (value) => (input.value = textFrom(value)) };
}
