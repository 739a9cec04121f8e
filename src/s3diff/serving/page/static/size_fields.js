// Width and height of the result in pixels, with a lock that keeps the picture's proportions.

import { button, element } from "./elements.js";
import { t } from "./texts.js";

/** The control of an exact size; its value is `3840x2160`, or empty while a side is missing. */
export class SizeFields {
  #width;
  #height;
  #lock;
  #ratio = null; // width over height of the picture that is shown

  constructor(changed) {
    const side = () => element("input", { type: "number", min: 1, step: 1, inputMode: "numeric" });
    [this.#width, this.#height] = [side(), side()];
    this.#lock = button({ className: "lock" }, () => this.#turn(changed));
    this.#lock.setAttribute("aria-pressed", "true");
    this.#width.addEventListener("input", () => this.#typed(this.#width, changed));
    this.#height.addEventListener("input", () => this.#typed(this.#height, changed));
    const row = element("div", { className: "sides" }, this.#width, this.#lock, this.#height);
    this.root = element("fieldset", {}, element("legend", { className: "label" }), row, element("p", { className: "info" }));
  }

  read() {
    const sides = [this.#width.value, this.#height.value];
    return sides.every(Boolean) ? sides.join("x") : "";
  }

  write(value) {
    const [width, height] = String(value ?? "").split("x");
    [this.#width.value, this.#height.value] = [width ?? "", height ?? ""];
  }

  name() {
    this.#width.setAttribute("aria-label", t("size.width"));
    this.#height.setAttribute("aria-label", t("size.height"));
    [this.#width.placeholder, this.#height.placeholder] = [t("size.width"), t("size.height")];
    this.#nameLock();
  }

  keepProportion(width, height) {
    this.#ratio = width && height ? width / height : null;
  }

  get #isLocked() {
    return this.#lock.getAttribute("aria-pressed") === "true";
  }

  #turn(changed) {
    this.#lock.setAttribute("aria-pressed", String(!this.#isLocked));
    this.#nameLock();
    if (this.#isLocked) this.#typed(this.#width, changed);
  }

  #nameLock() {
    this.#lock.title = t(this.#isLocked ? "size.locked" : "size.free");
    this.#lock.setAttribute("aria-label", t("size.lock"));
  }

  #typed(side, changed) {
    if (this.#isLocked && this.#ratio) {
      const [other, factor] = side === this.#width ? [this.#height, 1 / this.#ratio] : [this.#width, this.#ratio];
      other.value = side.value ? Math.max(1, Math.round(side.value * factor)) : "";
    }
    changed();
  }
}
