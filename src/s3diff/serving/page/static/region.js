// A piece of the picture, restored with the settings at hand before the whole is.

import * as service from "./service.js";

const SIDE_PX = 192; // of the piece, in pixels of the input, while nobody knows how fast the service is
const [SMALLEST_PX, LARGEST_PX] = [96, 512];
const WANTED_SECONDS = 0.8; // of the networks' work; a second remains for all of it
const AROUND_PX = 1536; // of what is fetched of a picture that no browser shows: the next click needs no upload

export class Region {
  #abort = null;
  #box = null; // of the piece, in pixels of the input: left, top, right, bottom
  #picture = null;
  #address = null;
  #fetched = null; // {picture, box, image: a promise}: the last part of a picture that no browser shows

  /** The box of the picture, in shares of its sides, and what is shown there. */
  constructor(compare) {
    this.compare = compare;
  }

  /** Whether a piece is shown or on its way. */
  get isOn() {
    return Boolean(this.#box);
  }

  /**
   * Choose the piece around a point, as large as is restored in about a second.
   * @param {Picture} picture
   * @param {number} x share of the picture's width
   * @param {number} y share of its height
   * @param {number|null} seconds that the whole picture takes; null while nobody knows
   */
  choose(picture, x, y, seconds) {
    const known = seconds ? Math.sqrt((WANTED_SECONDS / seconds) * picture.width * picture.height) : SIDE_PX;
    const side = Math.round(Math.min(LARGEST_PX, Math.max(SMALLEST_PX, known)));
    [this.#picture, this.#box] = [picture, boxAround(picture, x * picture.width, y * picture.height, side)];
  }

  /** Forget the piece. */
  close() {
    this.#abort?.abort();
    this.#box = this.#picture = null;
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
    const [picture, box] = [this.#picture, this.#box];
    const shown = box.map((side, index) => side / (index % 2 ? picture.height : picture.width));
    try {
      const blob = await this.#cut(picture, box);
      const size = [box[2] - box[0], box[3] - box[1]].map((side, index) => Math.max(1, Math.round(side * enlargement[index])));
      const file = new File([blob], "piece.png", { type: "image/png" });
      const wanted = { ...fields, size: size.join("x"), size_mode: "stretch", format: "png" };
      const result = await service.restored(file, wanted, abort.signal);
      if (abort.signal.aborted) return false;
      this.#show(result, shown);
      this.compare.zoomToBox(shown);
      return true;
    } catch (error) {
      if (error.name === "AbortError") return false;
      throw error;
    }
  }

  /** The piece alone: the picture itself stays here, or goes over once where no browser can read it. */
  async #cut(picture, box) {
    if (picture.isVideo) return cut(this.compare.images[0], box, [0, 0]); // the frame that is shown
    if (picture.isShownWhole) return cut(picture.image, box, [0, 0]);
    const known = this.#fetched;
    if (known?.picture !== picture || !contains(known.box, box)) {
      const around = boxAround(picture, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, AROUND_PX);
      // It goes on when its piece is given up: the next one needs it too.
      const image = service.piece(picture.file, around).then((blob) => createImageBitmap(blob));
      const fetched = (this.#fetched = { picture, box: around, image });
      image.catch(() => {
        if (this.#fetched === fetched) this.#fetched = null;
      });
    }
    const { image, box: place } = this.#fetched;
    return cut(await image, box, place);
  }
}

/** A square of the picture around a point, as far as the picture goes: left, top, right, bottom in its pixels. */
function boxAround({ width, height }, x, y, side) {
  const sides = [width, height];
  const starts = [x, y].map((middle, index) => Math.round(Math.min(Math.max(0, sides[index] - side), Math.max(0, middle - side / 2))));
  return [...starts, ...starts.map((start, index) => Math.min(sides[index], start + side))];
}

const contains = (outer, inner) => inner.every((edge, index) => (index < 2 ? edge >= outer[index] : edge <= outer[index]));

function cut(image, [left, top, right, bottom], [x, y]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [right - left, bottom - top];
  canvas.getContext("2d").drawImage(image, x - left, y - top);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
