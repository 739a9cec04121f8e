// The strip of pictures below the comparison, shown when there are several.

import { button, element } from "./elements.js";
import { t } from "./texts.js";
import { stateOf } from "./words.js";

export class Strip {
  #root;
  #does;

  /**
   * @param {Element} root the list
   * @param {object} does
   * @param {Function} does.pick called with the picture that is chosen
   * @param {Function} does.remove called with the picture that is to go
   */
  constructor(root, does) {
    [this.#root, this.#does] = [root, does];
  }

  /** Show the pictures as they are now; `current` is the one in the comparison. */
  draw(pictures, current) {
    this.#root.hidden = pictures.length < 2;
    const known = new Map([...this.#root.children].map((item) => [Number(item.dataset.id), item]));
    const items = pictures.map((picture) => {
      const item = known.get(picture.id) ?? this.#item(picture);
      const image = item.querySelector("img");
      if (picture.thumbnail && !image.src) image.src = picture.thumbnail;
      image.classList.toggle("is-blank", !picture.thumbnail);
      const pick = item.querySelector(".pick");
      if (picture === current && pick.getAttribute("aria-current") !== "true") item.scrollIntoView({ block: "nearest", inline: "nearest" });
      pick.setAttribute("aria-current", String(picture === current));
      item.querySelector(".remove").setAttribute("aria-label", t("strip.remove", { name: picture.name }));
      const state = item.querySelector(".state");
      state.textContent = stateOf(picture);
      state.classList.toggle("is-bad", ["failed", "broken"].includes(picture.state));
      state.classList.toggle("is-good", picture.state === "done");
      return item;
    });
    // An item that stays keeps the keyboard's focus.
    if (items.length !== this.#root.children.length || items.some((item, index) => this.#root.children[index] !== item)) {
      this.#root.replaceChildren(...items);
    }
  }

  #item(picture) {
    const pick = button({ className: "pick" }, () => this.#does.pick(picture));
    pick.append(
      element("img", { alt: "" }),
      element("span", { className: "name", textContent: picture.name, title: picture.name }),
      element("span", { className: "state" }),
    );
    const remove = button({ className: "remove", textContent: "\u00d7" }, () => this.#does.remove(picture));
    const item = element("li", {}, pick, remove);
    item.dataset.id = picture.id;
    return item;
  }
}
