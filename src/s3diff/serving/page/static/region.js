// A piece of the picture, restored with the settings at hand before the whole is.

import { ended } from "./pictures.js";
import * as service from "./service.js";

const SIDE_PX = 192; // of the piece, in pixels of the input: about a second's work for a small computer

export class Region {
  #abort = null;
  #point = null;
  #picture = null;
  #address = null;

  /** The box of the picture, in shares of its sides, and what is shown there. */
  constructor(compare) {
    this.compare = compare;
  }

  /** Whether a piece is shown or on its way. */
  get isOn() {
    return Boolean(this.#point);
  }

  /** Choose the piece around a point, in shares of what is shown. */
  choose(picture, x, y) {
    [this.#picture, this.#point] = [picture, [x, y]];
  }

  /** Forget the piece. */
  close() {
    this.#abort?.abort();
    this.#point = this.#picture = null;
    this.#show(null);
  }

  #show(blob, box) {
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = blob ? URL.createObjectURL(blob) : null;
    this.compare.patch(this.#address, box);
  }

  /**
   * Restore the piece.
   * @param {object} fields the form's fields, without those that set the result's size
   * @param {number[]} enlargement sides of the result over those of the input, across and down
   * @returns {Promise<boolean>} false where another piece or other settings have taken its place meanwhile
   */
  async restore(fields, enlargement) {
    this.#abort?.abort();
    const abort = (this.#abort = new AbortController());
    const picture = this.#picture;
    const box = this.#box();
    const shown = box.map((side, index) => side / (index % 2 ? picture.height : picture.width));
    let job = null;
    try {
      const blob = picture.isShownWhole ? await cut(picture.image, box) : await service.piece(picture.file, box, abort.signal);
      const size = [box[2] - box[0], box[3] - box[1]].map((side, index) => Math.max(1, Math.round(side * enlargement[index])));
      const file = new File([blob], "piece.png", { type: "image/png" });
      const wanted = { ...fields, size: size.join("x"), size_mode: "stretch", format: "png" };
      job = await service.submit(file, wanted, { signal: abort.signal, sent: () => {} });
      job = await ended(job, abort.signal);
      const result = await service.result(job.id, abort.signal);
      if (abort.signal.aborted) return false;
      this.#show(result, shown);
      this.compare.zoomToBox(shown);
      return true;
    } catch (error) {
      if (error.name === "AbortError") return false;
      throw error;
    } finally {
      if (job) service.cancelJob(job.id).catch(() => {});
    }
  }

  /** The piece in pixels of the input: left, top, right, bottom. */
  #box() {
    const sides = [this.#picture.width, this.#picture.height];
    const starts = sides.map((side, index) => {
      const middle = this.#point[index] * side;
      return Math.round(Math.min(Math.max(0, side - SIDE_PX), Math.max(0, middle - SIDE_PX / 2)));
    });
    return [...starts, ...starts.map((start, index) => Math.min(sides[index], start + SIDE_PX))];
  }
}

function cut(image, [left, top, right, bottom]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [right - left, bottom - top];
  canvas.getContext("2d").drawImage(image, -left, -top);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
