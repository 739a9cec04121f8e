// The panel's values as the service's options, the dial between estimate and hand, and errors beside their controls.

/** Values of every control, and the dial, which follows the estimate until somebody turns it. */
export class Settings {
  #controls;
  #sizeFields;
  #values;
  #byHand = {}; // field: {value, moved}; moved: by how much from the estimate, null while there was none

  constructor({ controls, sizeFields }) {
    this.#controls = controls;
    this.#sizeFields = sizeFields;
    this.#values = this.starts;
    this.arrange();
  }

  get starts() {
    return this.#controls.map((control) => control.start);
  }

  get isByHand() {
    return Object.keys(this.#byHand).length > 0;
  }

  take(values) {
    this.#values = values;
    this.arrange();
  }

  value(field) {
    return this.#values[this.#controls.findIndex((control) => control.field === field)];
  }

  /** Somebody turned the dial; `found` is what the estimator found for the picture that is shown. */
  turn(field, value, found) {
    this.#byHand[field] = { value, moved: found ? value - found[field] : null };
  }

  follow() {
    this.#byHand = {};
  }

  /** Where the dial stands for a picture, [blur, noise]. */
  dial(found, isSeveral) {
    return ["blur", "noise"].map((field) => {
      const hand = this.#byHand[field];
      if (!hand) return round(found?.[field] ?? 0);
      if (isSeveral && found && hand.moved !== null) return round(Math.min(1, Math.max(0, found[field] + hand.moved)));
      return hand.value;
    });
  }

  /** What the dial does, in words. */
  words(found, isSeveral) {
    const told = (degree) => `blur ${found[degree[0]].toFixed(2)}, noise ${found[degree[1]].toFixed(2)}`;
    const estimated = found ? told(["blur", "noise"]) : null;
    if (!this.isByHand) {
      if (isSeveral) return `Each picture has its own estimate${estimated ? `; this one: ${estimated}` : ""}.`;
      return estimated ? `Estimated: ${estimated}.` : "Blur and noise follow the estimate of each picture.";
    }
    const moved = this.#moved();
    if (isSeveral && Object.values(moved).every((value) => typeof value === "string")) {
      const all = Object.entries(moved).map(([field, value]) => `${field} ${value}`);
      return `Moved for every picture, from its own estimate: ${all.join(", ") || "by nothing"}.`;
    }
    return `Set by hand${estimated ? `; estimated: ${estimated}` : ""}.`;
  }

  #moved() {
    const moved = {};
    for (const [field, hand] of Object.entries(this.#byHand)) {
      if (hand.moved === null) moved[field] = hand.value;
      else if (Math.abs(hand.moved) >= 0.005) moved[field] = `${hand.moved < 0 ? "-" : "+"}${Math.abs(hand.moved).toFixed(2)}`;
    }
    return moved;
  }

  /** Options that differ from their defaults, by field. An empty size is named as what is missing. */
  options(isSeveral) {
    const chosen = this.value("size_by");
    const options = {};
    for (const [index, { field, start, label }] of this.#controls.entries()) {
      const value = this.#values[index];
      if (["size_by", "blur", "noise"].includes(field)) continue;
      if (this.#sizeFields.includes(field) && field !== chosen) continue;
      if (field === "size_mode" && chosen !== "size") continue;
      const isEmpty = value === null || value === undefined || value === "";
      if (isEmpty && field === chosen) throw new RefusedValue(field, `Give a value for "${label}", or choose another way to enlarge.`);
      if (!isEmpty && value !== start) options[field] = value;
    }
    for (const [field, hand] of Object.entries(this.#byHand)) {
      const moved = this.#moved()[field];
      if (!isSeveral) options[field] = hand.value;
      else if (moved !== undefined) options[field] = moved;
    }
    return options;
  }

  /**
   * Refuse what would be larger than the service makes, before anything is sent.
   * @param {object} picture with name, width and height; 0 while they are unknown
   * @param {number} allowed pixels
   */
  requireRoom({ name, width, height }, allowed) {
    if (!width) return;
    const [chosen, larger] = [this.value("size_by"), Math.max(width, height)];
    const value = this.value(chosen);
    let pixels = 0;
    if (chosen === "scale") pixels = width * height * value ** 2;
    if (chosen === "long_side") pixels = width * height * (value / larger) ** 2;
    if (chosen === "megapixels") pixels = value * 1e6;
    if (chosen === "size") pixels = String(value).split(/x/i).reduce((product, side) => product * Number(side), 1);
    if (!(pixels > allowed)) return;
    const told = [pixels, allowed].map((number) => (number / 1e6).toPrecision(3).replace(/\.0+$/, ""));
    throw new RefusedValue(chosen, `${name} would have ${told[0]} megapixels; at most ${told[1]} are made here. Give less.`);
  }

  /** How the input fills the result's proportions, as CSS says it. */
  get fit() {
    return this.value("size_by") === "size" && this.value("size_mode") === "fill" ? "cover" : "fill";
  }

  /** Show the controls that belong to the chosen way to enlarge. */
  arrange() {
    const chosen = this.value("size_by");
    for (const field of [...this.#sizeFields, "size_mode"]) {
      const isOn = field === chosen || (field === "size_mode" && chosen === "size");
      block(field)?.toggleAttribute("data-off", !isOn);
    }
  }

  /** Put an error beside the control that caused it; false where there is no such control in sight. */
  blame(field, message) {
    const element = field && block(field);
    if (!element) return false;
    const panel = element.closest(".part")?.querySelector("button.label-wrap");
    if (panel && !panel.classList.contains("open")) panel.click();
    let text = element.querySelector(".control-error");
    if (!text) {
      text = Object.assign(document.createElement("p"), { className: "control-error", id: `error-${field}` });
      text.setAttribute("role", "alert");
      element.append(text);
    }
    text.textContent = message;
    element.classList.add("has-error");
    for (const input of element.querySelectorAll("input, textarea")) {
      input.setAttribute("aria-invalid", "true");
      input.setAttribute("aria-describedby", text.id);
    }
    return true;
  }

  forgive() {
    for (const text of document.querySelectorAll(".control-error")) {
      const element = text.parentElement;
      text.remove();
      element.classList.remove("has-error");
      for (const input of element.querySelectorAll("[aria-invalid]")) {
        input.removeAttribute("aria-invalid");
        input.removeAttribute("aria-describedby");
      }
    }
  }
}

/** A control's value is missing or too large. */
export class RefusedValue extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

const round = (value) => Math.round(value * 100) / 100;
const block = (field) => document.getElementById(`control-${field}`);
