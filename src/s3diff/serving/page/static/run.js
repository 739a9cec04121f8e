// Pictures on their way through the service: some at the same time, handed in in their order; their progress.

import { t } from "./texts.js";
import { duration } from "./words.js";

const AT_ONCE = 3; // the service puts them in order

export class Run {
  #batch = [];
  #started = 0;
  #root;

  /** `root` holds `.progress`. */
  constructor(root) {
    this.#root = root;
  }

  get isBusy() {
    return this.#batch.length > 0;
  }

  /**
   * Restore pictures, and wait for the end.
   * @param {Picture[]} pictures
   * @param {object} fields the form's fields
   * @param {object} about see Picture.restore
   * @param {Function} changed called whenever something is
   * @returns {Promise<string>} what happened, in words
   */
  async restore(pictures, fields, about, changed) {
    [this.#batch, this.#started] = [pictures, performance.now()];
    for (const picture of pictures) picture.state = "waiting";
    const queue = [...pictures];
    let turn = Promise.resolve();
    const work = async () => {
      for (let picture = queue.shift(); picture; picture = queue.shift()) {
        if (picture.state !== "waiting") continue;
        const before = turn;
        let handedIn;
        turn = new Promise((resolve) => (handedIn = resolve));
        await picture.restore(fields, { ...about, turn: before, handedIn }, changed);
      }
    };
    changed();
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    this.#batch = [];
    return this.#words(pictures);
  }

  #words(pictures) {
    const seconds = ((performance.now() - this.#started) / 1000).toFixed(1);
    const count = (state) => pictures.filter((picture) => picture.state === state).length;
    if (count("cancelled")) return t("run.cancelled");
    if (pictures.length > 1) return t("run.several", { done: count("done"), count: pictures.length, seconds });
    return count("done") ? t("run.done", { seconds }) : "";
  }

  cancel() {
    for (const picture of this.#batch) {
      if (picture.state === "waiting") picture.state = "cancelled";
      picture.cancel();
    }
  }

  abandon() {
    for (const picture of this.#batch) picture.abandon();
  }

  /** Show how far all of it is. */
  draw() {
    const find = (selector) => this.#root.querySelector(selector);
    const batch = this.#batch;
    find(".progress").hidden = batch.length === 0;
    if (batch.length === 0) {
      find(".stage").textContent = find(".left").textContent = "";
      return;
    }
    const active = batch.find((picture) => picture.state === "working") ?? batch[0];
    const isOver = (picture) => !["working", "waiting"].includes(picture.state);
    const share = batch.reduce((sum, picture) => sum + (isOver(picture) ? 1 : picture.share), 0) / batch.length;
    let words = active.doing || t("stage.waiting");
    if (active.tiles) words += `, ${t(`progress.${active.part}`, { number: active.tiles[0], count: active.tiles[1] })}`;
    if (batch.length > 1) words = t("progress.picture", { number: Math.min(batch.filter(isOver).length + 1, batch.length), count: batch.length, words });
    const elapsed = (performance.now() - this.#started) / 1000;
    const left = batch.length === 1 ? active.secondsLeft : share > 0.05 ? (elapsed * (1 - share)) / share : null;
    find(".stage").textContent = words;
    find(".left").textContent = left === null ? "" : left < 1 ? t("progress.soon") : t("progress.left", { time: duration(left) });
    find(".meter").setAttribute("aria-valuenow", Math.round(share * 100));
    find(".meter div").style.width = `${share * 100}%`;
  }
}
