// The results of one picture in this visit: any of them is shown, against the picture itself or another result.

import { button, element } from "./elements.js";
import { resultName } from "./pictures.js";
import { number, t } from "./texts.js";

export class History {
  #list;
  #root;
  #against;
  #picture = null;
  #changed;

  /** `changed` is called when another result is chosen. */
  constructor(root, changed) {
    [this.#root, this.#changed] = [root, changed];
    this.#list = root.querySelector("ul");
    this.#against = root.querySelector(".against select");
    this.#against.addEventListener("change", () => {
      const picture = this.#picture;
      picture.against = picture.results.find((each) => String(each.number) === this.#against.value) ?? null;
      changed();
    });
  }

  draw(picture) {
    this.#picture = picture;
    this.#root.hidden = picture.results.length < 2;
    if (this.#root.hidden) {
      this.#list.replaceChildren();
      return;
    }
    this.#list.replaceChildren(...picture.results.map((result) => element("li", {}, this.#choice(picture, result))));
    const others = picture.results.filter((each) => each !== picture.result);
    const options = [new Option(t("compare.before"), ""), ...others.map((each) => new Option(resultName(each), each.number))];
    this.#against.replaceChildren(...options);
    this.#against.value = picture.against?.number ?? "";
  }

  #choice(picture, result) {
    const { width, height, blur, noise } = result.job.result;
    const values = { name: resultName(result), size: `${width} \u00d7 ${height}`, blur: number(blur), noise: number(noise) };
    const choice = button({ textContent: t("history.choice", values), title: result.command }, () => {
      if (picture.against === result) picture.against = picture.result;
      picture.result = result;
      this.#changed();
      this.#list.querySelector("[aria-current=true]")?.focus();
    });
    choice.setAttribute("aria-current", String(result === picture.result));
    return choice;
  }
}
