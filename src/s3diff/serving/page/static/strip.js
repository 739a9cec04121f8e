// The strip of pictures below the comparison, shown when there are several.

import { stateOf } from "./words.js";

export class Strip {
  #root;
  #pick;
  #remove;

  /**
   * @param {Element} root the list
   * @param {object} does
   * @param {Function} does.pick called with the picture that is chosen
   * @param {Function} does.remove called with the picture that is to go
   */
  constructor(root, { pick, remove }) {
    this.#root = root;
    this.#pick = pick;
    this.#remove = remove;
  }

  /** Show the pictures as they are now; `current` is the one in the comparison. */
  draw(pictures, current) {
    this.#root.hidden = pictures.length < 2;
    const known = new Map([...this.#root.children].map((item) => [Number(item.dataset.id), item]));
    const items = pictures.map((picture) => {
      const item = known.get(picture.id) ?? this.#item(picture);
      const image = item.querySelector("img");
      if (picture.thumbnail && !image.src) image.src = picture.thumbnail;
      image.style.visibility = picture.thumbnail ? "visible" : "hidden";
      item.querySelector(".pick").setAttribute("aria-current", String(picture === current));
      const state = item.querySelector(".state");
      state.textContent = stateOf(picture);
      state.classList.toggle("is-bad", picture.state === "failed");
      state.classList.toggle("is-good", picture.state === "done");
      return item;
    });
    // An item that stays keeps the keyboard's focus.
    if (items.length !== this.#root.children.length || items.some((item, index) => this.#root.children[index] !== item)) {
      this.#root.replaceChildren(...items);
    }
  }

  #item(picture) {
    const item = element("li");
    item.dataset.id = picture.id;
    const pick = element("button", { type: "button", className: "pick" });
    pick.append(
      element("img", { alt: "" }),
      element("span", { className: "name", textContent: picture.name, title: picture.name }),
      element("span", { className: "state" }),
    );
    pick.addEventListener("click", () => this.#pick(picture));
    const remove = element("button", { type: "button", className: "remove", textContent: "\u00d7" });
    remove.setAttribute("aria-label", `Remove ${picture.name}`);
    remove.addEventListener("click", () => this.#remove(picture));
    item.append(pick, remove);
    return item;
  }
}

const element = (name, properties = {}) => Object.assign(document.createElement(name), properties);
