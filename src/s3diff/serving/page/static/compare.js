// Two pictures or videos in one frame: with a divider between them, side by side, or one after the other; zoom, panning.

import { Gestures } from "./gestures.js";
import { number, t } from "./texts.js";

const LARGEST_ZOOM = 16; // screen pixels per pixel of the result
const STEP = 2; // per cent of the picture that an arrow key moves the divider
const PAN_STEP_PX = 60;
const GAP_PX = 4; // between two pictures side by side
const GRIP_PX = 20; // of the divider's handle that stays inside the frame

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** One comparison inside `root`, which holds `.frame` with its panes, the divider, and the buttons for modes and zoom. */
export class Compare {
  #root;
  #frame;
  #stills; // before, after
  #videos; // the same
  #images; // what is shown of each side
  #patch;
  #divider;
  #mode = "split";
  #isHeld = false; // whether only the picture before is shown
  #width = 1; // of the result, in its own pixels
  #height = 1;
  #scale = 1; // CSS pixels per pixel of the result
  #left = 0;
  #top = 0;
  #position = 50; // of the divider, per cent of the picture in sight
  #isFitted = true;
  #patchBox = null;
  #shown = {};

  /**
   * `clicked` is called with a point of the picture, in shares of its sides, that was clicked without dragging; where it
   * answers false, the divider goes there.
   */
  constructor(root, clicked) {
    this.#root = root;
    this.#frame = root.querySelector(".frame");
    this.#images = this.#stills = [root.querySelector(".before"), root.querySelector(".after")];
    this.#videos = [root.querySelector(".before-video"), root.querySelector(".after-video")];
    this.#patch = root.querySelector(".patch");
    this.#divider = root.querySelector(".divider");
    for (const each of root.querySelectorAll("[data-zoom]")) each.addEventListener("click", () => this.zoom(each.dataset.zoom));
    for (const each of root.querySelectorAll("[data-mode]")) each.addEventListener("click", () => this.mode(each.dataset.mode));
    const hold = root.querySelector(".hold");
    for (const name of ["pointerdown", "pointerup", "pointerleave", "pointercancel"]) {
      hold.addEventListener(name, () => this.hold(name === "pointerdown"));
    }
    this.#frame.addEventListener("keydown", (event) => this.#key(event));
    new Gestures(this.#frame, this.#divider, {
      drags: () => (this.#isPair && this.#mode === "split" && !this.#isEnlarged ? "divider" : "picture"),
      divide: (x) => this.#divideAt(x),
      pan: (x, y) => this.#pan(x, y),
      zoomBy: (factor, x, y) => this.#zoomTo(this.#scale * factor, x, y),
      isEnlarged: () => this.#isEnlarged,
      toggle: (x, y) => (this.#isEnlarged ? this.zoom("fit") : this.#zoomTo(Math.max(1 / devicePixelRatio, this.#scale * 2), x, y)),
      clicked: (x, y) => clicked(...this.#pointAt(x, y)) || this.#isEnlarged || this.#isSide || this.#divideAt(x),
    });
    new ResizeObserver(() => this.#place()).observe(this.#frame);
  }

  /**
   * Show a picture, and beside it its restoration.
   * @param {object} pair
   * @param {string} pair.before address of the picture before; empty where it is not known any more
   * @param {string|null} pair.after address of the result; null while there is none
   * @param {number} pair.width width of what is compared, in pixels
   * @param {number} pair.height its height
   * @param {string} pair.fit how the picture before fills that size: CSS object-fit
   * @param {string} pair.name for screen readers
   * @param {string[]} pair.tags what stands on both sides
   * @param {boolean} pair.isMoving whether both are videos
   */
  show(pair) {
    const { before, after, width, height, fit, name, tags, isMoving } = pair;
    const isSameShape = Math.abs((width / height) * (this.#height / this.#width) - 1) < 0.02;
    // What is looked at stays where it is when a result with more pixels takes the picture's place.
    if (isSameShape && name === this.#shown.name) this.#scale *= this.#width / width;
    else this.#isFitted = true;
    [this.#width, this.#height, this.#shown] = [width, height, pair];
    for (const each of isMoving ? this.#stills : this.#videos) set(each, null, "");
    this.#images = isMoving ? this.#videos : this.#stills;
    const [first, second] = this.#images;
    set(first, before || after, tags[0] ? `${tags[0]}: ${name}` : name);
    set(second, before ? after : null, `${tags[1]}: ${name}`);
    first.style.objectFit = before ? fit : "fill";
    this.#frame.classList.toggle("is-pair", this.#isPair);
    for (const [index, side] of ["before", "after"].entries()) this.#frame.querySelector(`.tag-${side}`).textContent = tags[index];
    this.#frame.style.setProperty("--proportion", `${width} / ${height}`);
    this.#place();
  }

  /** What is shown of both sides. */
  get images() {
    return this.#images;
  }

  get #isPair() {
    return Boolean(this.#shown.before && this.#shown.after);
  }

  /** Show a restored piece of the picture in its place; `box` in shares of the picture's sides: left, top, right, bottom. */
  patch(address, box) {
    this.#patchBox = address ? box : null;
    set(this.#patch, address, t("region.alt"));
    this.#frame.classList.toggle("has-patch", Boolean(address));
    this.#place();
  }

  /** `split`: a divider between both; `side`: beside each other. */
  mode(mode) {
    this.#mode = mode;
    for (const each of this.#root.querySelectorAll("[data-mode]")) each.setAttribute("aria-pressed", String(each.dataset.mode === mode));
    this.#frame.classList.toggle("is-side", mode === "side");
    this.#place();
  }

  otherMode() {
    this.mode(this.#mode === "split" ? "side" : "split");
  }

  /** While held, only the picture before is shown. */
  hold(isHeld) {
    this.#isHeld = isHeld;
    this.#frame.classList.toggle("is-held", isHeld);
    this.#place();
  }

  /** Move the divider to `position` per cent of the picture in sight from its left edge. */
  divide(position) {
    this.#position = clamp(position, 0, 100);
    this.#place();
  }

  /** `in`, `out`, `fit` or `full`: one pixel of the result for one of the screen. */
  zoom(step) {
    const [width, height] = this.#paneSize();
    const target = { in: this.#scale * 1.5, out: this.#scale / 1.5, fit: this.#fitting(), full: 1 / devicePixelRatio }[step];
    this.#zoomTo(target, width / 2, height / 2);
  }

  /** Zoom to a box of the picture, in shares of its sides, so that it fills about two thirds of the pane. */
  zoomToBox([left, top, right, bottom]) {
    const [width, height] = this.#paneSize();
    const [across, down] = [(right - left) * this.#width, (bottom - top) * this.#height];
    const scale = Math.max(this.#fitting(), 0.66 * Math.min(width / across, height / down));
    if (scale <= this.#scale) return;
    [this.#scale, this.#isFitted] = [scale, false];
    this.#left = width / 2 - ((left + right) / 2) * this.#width * scale;
    this.#top = height / 2 - ((top + bottom) / 2) * this.#height * scale;
    this.#place();
  }

  /** What lies under a point of the frame, for the loupe: both images, the point in shares of their sides. */
  under(x, y) {
    const point = this.#pointAt(x, y);
    return { images: this.#images, point, isPair: this.#isPair, width: this.#width };
  }

  get #isSide() {
    return this.#mode === "side" && this.#isPair;
  }

  #paneSize() {
    const [width, height] = [this.#frame.clientWidth || 1, this.#frame.clientHeight || 1];
    return [this.#isSide ? (width - GAP_PX) / 2 : width, height];
  }

  /** A point of the frame inside the pane where it lies. */
  #inPane(x) {
    const start = this.#paneSize()[0] + GAP_PX;
    return this.#isSide && x >= start ? x - start : x;
  }

  #pointAt(x, y) {
    return [(this.#inPane(x) - this.#left) / (this.#width * this.#scale), (y - this.#top) / (this.#height * this.#scale)];
  }

  /** The scale at which the whole picture fills its pane. */
  #fitting() {
    const [width, height] = this.#paneSize();
    return Math.min(width / this.#width, height / this.#height);
  }

  get #isEnlarged() {
    return this.#scale > this.#fitting() * 1.001;
  }

  /** Zoom so that the point (x, y) of the pane stays where it is. */
  #zoomTo(scale, x, y) {
    const [fitting, real] = [this.#fitting(), 1 / devicePixelRatio];
    const next = clamp(scale, Math.min(fitting, real), Math.max(fitting, real * LARGEST_ZOOM));
    const across = this.#inPane(x);
    this.#left = across - ((across - this.#left) * next) / this.#scale;
    this.#top = y - ((y - this.#top) * next) / this.#scale;
    this.#scale = next;
    this.#isFitted = Math.abs(next / fitting - 1) < 0.001;
    this.#place();
  }

  #pan(x, y) {
    this.#left += x;
    this.#top += y;
    this.#place();
  }

  /** The edges of the picture in sight, in the frame. */
  #sight() {
    const width = this.#paneSize()[0];
    return [Math.max(0, this.#left), Math.min(width, this.#left + this.#width * this.#scale)];
  }

  #divideAt(x) {
    const [low, high] = this.#sight();
    this.divide(((x - low) / (high - low)) * 100);
  }

  #place() {
    const [width, height] = this.#paneSize();
    if (this.#isFitted) this.#scale = this.#fitting();
    const [across, down] = [this.#width * this.#scale, this.#height * this.#scale];
    // A picture smaller than the pane is centred; a larger one always covers it.
    this.#left = across <= width ? (width - across) / 2 : clamp(this.#left, width - across, 0);
    this.#top = down <= height ? (height - down) / 2 : clamp(this.#top, height - down, 0);
    for (const image of this.#images) placeAt(image, this.#left, this.#top, across, down);
    if (this.#patchBox) {
      const [left, top, right, bottom] = this.#patchBox;
      placeAt(this.#patch, this.#left + left * across, this.#top + top * down, (right - left) * across, (bottom - top) * down);
    }
    this.#placeDivider();
    this.#frame.classList.toggle("is-zoomed", this.#isEnlarged);
    this.#root.querySelector(".zoom-level").textContent = `${number(this.#scale * devicePixelRatio * 100, 0)} %`;
  }

  #placeDivider() {
    const [low, high] = this.#sight();
    const edge = low + (this.#position / 100) * (high - low);
    const isSplit = this.#isPair && !this.#isSide && !this.#isHeld;
    const [before, after] = [...this.#frame.querySelectorAll(".pane")];
    before.style.clipPath = isSplit ? `inset(0 calc(100% - ${edge}px) 0 0)` : "none";
    after.style.clipPath = isSplit ? `inset(0 0 0 ${edge}px)` : "none";
    this.#divider.style.left = `${clamp(edge, GRIP_PX, Math.max(GRIP_PX, this.#frame.clientWidth - GRIP_PX))}px`;
    const share = Math.round(this.#position);
    this.#divider.setAttribute("aria-valuenow", share);
    this.#divider.setAttribute("aria-valuetext", t("compare.shares", { before: share, after: 100 - share }));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === this.#divider) {
      const step = event.shiftKey ? STEP * 5 : STEP;
      const moved = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, Home: -100, End: 100 }[event.key];
      if (moved === undefined) return;
      this.divide(this.#position + moved);
    } else {
      const [x, y] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [];
      if (x === undefined || !this.#isEnlarged) return;
      this.#pan(x * PAN_STEP_PX, y * PAN_STEP_PX);
    }
    event.preventDefault();
  }
}

function set(image, address, words) {
  const isVideo = image.localName === "video";
  image.hidden = !address;
  if (address && image.src !== address) image.src = address;
  if (!address && image.hasAttribute("src")) {
    image.removeAttribute("src");
    if (isVideo) image.load(); // or it would be held in memory
  }
  if (isVideo) image.setAttribute("aria-label", address ? words : "");
  else image.alt = address ? words : "";
}

/** The sides of a picture, or of a video's frames, in their own pixels. */
export const sidesOf = (image) => (image.localName === "video" ? [image.videoWidth, image.videoHeight] : [image.naturalWidth, image.naturalHeight]);

function placeAt(image, left, top, width, height) {
  image.style.width = `${width}px`;
  image.style.height = `${height}px`;
  image.style.transform = `translate(${left}px, ${top}px)`;
}
