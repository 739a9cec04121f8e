// Two pictures in one frame with a divider between them, zoom and panning; pointer, touch and keyboard.

const LARGEST_ZOOM = 16; // screen pixels per pixel of the result
const STEP = 2; // per cent of the frame that an arrow key moves the divider
const PAN_STEP_PX = 60;

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** One comparison inside `root`, the element that holds `.frame`, `.before`, `.after`, `.divider` and `.zoom` buttons. */
export class Compare {
  #frame;
  #before;
  #after;
  #divider;
  #readout;
  #pointers = new Map();
  #pinch = null;
  #dragging = null;
  #width = 1; // of the result, in its own pixels
  #height = 1;
  #scale = 1; // CSS pixels per pixel of the result
  #left = 0;
  #top = 0;
  #position = 50;
  #isFitted = true;

  constructor(root) {
    this.#frame = root.querySelector(".frame");
    this.#before = root.querySelector(".before");
    this.#after = root.querySelector(".after");
    this.#divider = root.querySelector(".divider");
    this.#readout = root.querySelector(".zoom-level");
    for (const button of root.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => this.#zoomBy(button.dataset.zoom));
    }
    this.#frame.addEventListener("pointerdown", (event) => this.#press(event));
    this.#frame.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.#frame.addEventListener(name, (event) => this.#release(event));
    }
    this.#frame.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.#frame.addEventListener("dblclick", (event) => this.#toggle(event));
    this.#frame.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#fitAgain()).observe(this.#frame);
  }

  /**
   * Show a picture, and beside it its restoration.
   * @param {object} pair
   * @param {string} pair.before address of the input
   * @param {string|null} pair.after address of the result; null while there is none
   * @param {number} pair.width width of what is compared, in pixels
   * @param {number} pair.height its height
   * @param {string} pair.fit how the input fills that size: CSS object-fit
   * @param {string} pair.name for screen readers
   */
  show({ before, after, width, height, fit, name }) {
    const isOther = width !== this.#width || height !== this.#height;
    [this.#width, this.#height] = [width, height];
    this.#before.src = before;
    this.#before.alt = after ? `Before: ${name}` : name;
    this.#before.style.objectFit = fit;
    this.#after.hidden = !after;
    if (after) {
      this.#after.src = after;
      this.#after.alt = `After: ${name}, restored`;
    } else {
      this.#after.removeAttribute("src");
      this.#after.alt = "";
    }
    this.#frame.classList.toggle("is-pair", Boolean(after));
    this.#frame.style.setProperty("--proportion", `${width} / ${height}`);
    this.#frame.style.setProperty("--ratio", width / height);
    if (isOther || this.#isFitted) this.#fit();
    this.#place();
  }

  /** Move the divider to `position` per cent of the frame's width from its left edge. */
  divide(position) {
    this.#position = clamp(position, 0, 100);
    this.#place();
  }

  #size() {
    return [this.#frame.clientWidth || 1, this.#frame.clientHeight || 1];
  }

  /** The scale at which the whole picture fills the frame. */
  #fitting() {
    const [width, height] = this.#size();
    return Math.min(width / this.#width, height / this.#height);
  }

  /** Whether the picture is larger than the frame, so that it can be moved. */
  get #isEnlarged() {
    return this.#scale > this.#fitting() * 1.001;
  }

  #fit() {
    this.#isFitted = true;
    this.#scale = this.#fitting();
  }

  #fitAgain() {
    if (this.#isFitted) this.#fit();
    this.#place();
  }

  /** Zoom so that the point (x, y) of the frame stays where it is. */
  #zoomTo(scale, x, y) {
    const [fitting, real] = [this.#fitting(), 1 / devicePixelRatio];
    const next = clamp(scale, Math.min(fitting, real), Math.max(fitting, real * LARGEST_ZOOM));
    this.#left = x - ((x - this.#left) * next) / this.#scale;
    this.#top = y - ((y - this.#top) * next) / this.#scale;
    this.#scale = next;
    this.#isFitted = Math.abs(next / fitting - 1) < 0.001;
    this.#place();
  }

  #zoomBy(step) {
    const [width, height] = this.#size();
    const target = {
      in: this.#scale * 1.5,
      out: this.#scale / 1.5,
      fit: this.#fitting(),
      full: 1 / devicePixelRatio,
    }[step];
    this.#zoomTo(target, width / 2, height / 2);
  }

  #place() {
    const [width, height] = this.#size();
    const [across, down] = [this.#width * this.#scale, this.#height * this.#scale];
    // A picture smaller than the frame is centred; a larger one always covers it.
    this.#left = across <= width ? (width - across) / 2 : clamp(this.#left, width - across, 0);
    this.#top = down <= height ? (height - down) / 2 : clamp(this.#top, height - down, 0);
    const edge = (this.#position / 100) * width - this.#left;
    for (const image of [this.#before, this.#after]) {
      image.style.width = `${across}px`;
      image.style.height = `${down}px`;
      image.style.transform = `translate(${this.#left}px, ${this.#top}px)`;
    }
    const isPair = this.#frame.classList.contains("is-pair");
    this.#before.style.clipPath = isPair ? `inset(0 ${Math.max(0, across - edge)}px 0 0)` : "none";
    this.#after.style.clipPath = `inset(0 0 0 ${Math.max(0, edge)}px)`;
    this.#divider.style.left = `${this.#position}%`;
    const share = Math.round(this.#position);
    this.#divider.setAttribute("aria-valuenow", share);
    this.#divider.setAttribute("aria-valuetext", `${share} per cent before, ${100 - share} per cent after`);
    this.#frame.classList.toggle("is-zoomed", this.#isEnlarged);
    if (this.#readout) this.#readout.textContent = `${Math.round(this.#scale * devicePixelRatio * 100)} %`;
  }

  #at(event) {
    const box = this.#frame.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #press(event) {
    if (event.button !== 0) return;
    this.#frame.setPointerCapture(event.pointerId);
    const [x, y] = this.#at(event);
    this.#pointers.set(event.pointerId, [x, y]);
    if (this.#pointers.size === 2) {
      this.#dragging = null;
      this.#pinch = { scale: this.#scale, distance: this.#distance() };
      return;
    }
    const onDivider = this.#divider.contains(event.target);
    const isPair = this.#frame.classList.contains("is-pair");
    this.#dragging = isPair && (onDivider || !this.#isEnlarged) ? "divider" : "picture";
    if (this.#dragging === "divider" && event.pointerType === "mouse") this.divide((x / this.#size()[0]) * 100);
    if (onDivider) this.#divider.focus({ preventScroll: true });
  }

  #move(event) {
    const last = this.#pointers.get(event.pointerId);
    if (!last) return;
    const [x, y] = this.#at(event);
    this.#pointers.set(event.pointerId, [x, y]);
    if (this.#pinch && this.#pointers.size === 2) {
      const [[ax, ay], [bx, by]] = [...this.#pointers.values()];
      this.#zoomTo((this.#pinch.scale * this.#distance()) / this.#pinch.distance, (ax + bx) / 2, (ay + by) / 2);
    } else if (this.#dragging === "divider") {
      this.divide((x / this.#size()[0]) * 100);
    } else if (this.#dragging === "picture") {
      this.#left += x - last[0];
      this.#top += y - last[1];
      this.#place();
    }
  }

  #release(event) {
    this.#pointers.delete(event.pointerId);
    if (this.#pointers.size < 2) this.#pinch = null;
    if (this.#pointers.size === 0) this.#dragging = null;
  }

  #distance() {
    const [[ax, ay], [bx, by]] = [...this.#pointers.values()];
    return Math.hypot(ax - bx, ay - by) || 1;
  }

  #wheel(event) {
    // Plain scrolling over a picture that is whole scrolls the page, as anywhere else.
    if (!this.#isEnlarged && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : 1;
    this.#zoomTo(this.#scale * Math.exp(-event.deltaY * lines * 0.0025), ...this.#at(event));
  }

  #toggle(event) {
    if (this.#divider.contains(event.target)) return;
    if (!this.#isEnlarged) this.#zoomTo(Math.max(1 / devicePixelRatio, this.#scale * 2), ...this.#at(event));
    else this.#zoomBy("fit");
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const zoom = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "full" }[event.key];
    if (zoom) {
      this.#zoomBy(zoom);
    } else if (event.target === this.#divider) {
      const step = event.shiftKey ? STEP * 5 : STEP;
      const moved = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, Home: -100, End: 100 }[event.key];
      if (moved === undefined) return;
      this.divide(this.#position + moved);
    } else {
      const [x, y] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [];
      if (x === undefined || !this.#isEnlarged) return;
      this.#left += x * PAN_STEP_PX;
      this.#top += y * PAN_STEP_PX;
      this.#place();
    }
    event.preventDefault();
  }
}
