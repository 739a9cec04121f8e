// What pointers, fingers and the wheel do to a comparison.

const CLICK_PX = 5; // a pointer that moved less has clicked
const WHEEL_STEP = 0.0025;

export class Gestures {
  #frame;
  #divider;
  #does;
  #pointers = new Map();
  #distance = 0;
  #dragging = null;
  #travelled = 0;

  /**
   * @param {Element} frame where they happen
   * @param {Element} divider inside it
   * @param {object} does divide(x), pan(x, y), zoomBy(factor, x, y), toggle(x, y), clicked(x, y), all in CSS pixels of
   *   the frame; drags() names what a pointer moves, `divider` or `picture`; isEnlarged()
   */
  constructor(frame, divider, does) {
    [this.#frame, this.#divider, this.#does] = [frame, divider, does];
    frame.addEventListener("pointerdown", (event) => this.#press(event));
    frame.addEventListener("pointermove", (event) => this.#move(event));
    frame.addEventListener("pointerup", (event) => this.#release(event, true));
    frame.addEventListener("pointercancel", (event) => this.#release(event, false));
    frame.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    frame.addEventListener("dblclick", (event) => !divider.contains(event.target) && does.toggle(...this.#at(event)));
  }

  #at(event) {
    const box = this.#frame.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #press(event) {
    if (event.button !== 0) return;
    this.#frame.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.#at(event));
    this.#travelled = 0;
    if (this.#pointers.size === 2) {
      this.#dragging = null;
      this.#distance = this.#spread();
      return;
    }
    const onDivider = this.#divider.contains(event.target);
    this.#dragging = onDivider ? "divider" : this.#does.drags();
    if (onDivider) this.#divider.focus({ preventScroll: true });
  }

  #move(event) {
    const last = this.#pointers.get(event.pointerId);
    if (!last) return;
    const [x, y] = this.#at(event);
    this.#pointers.set(event.pointerId, [x, y]);
    this.#travelled += Math.hypot(x - last[0], y - last[1]);
    if (this.#pointers.size === 2) {
      const [[ax, ay], [bx, by]] = [...this.#pointers.values()];
      this.#does.zoomBy(this.#spread() / this.#distance, (ax + bx) / 2, (ay + by) / 2);
      this.#distance = this.#spread();
    } else if (this.#dragging === "divider") {
      this.#does.divide(x);
    } else if (this.#dragging === "picture") {
      this.#does.pan(x - last[0], y - last[1]);
    }
  }

  #release(event, isWhole) {
    const known = this.#pointers.delete(event.pointerId);
    if (known && isWhole && this.#pointers.size === 0 && this.#travelled < CLICK_PX && !this.#divider.contains(event.target)) {
      this.#does.clicked(...this.#at(event));
    }
    if (this.#pointers.size === 0) this.#dragging = null;
  }

  #spread() {
    const [[ax, ay], [bx, by]] = [...this.#pointers.values()];
    return Math.hypot(ax - bx, ay - by) || 1;
  }

  #wheel(event) {
    // Plain scrolling over a picture that is whole scrolls the page, as anywhere else.
    if (!this.#does.isEnlarged() && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : 1;
    this.#does.zoomBy(Math.exp(-event.deltaY * lines * WHEEL_STEP), ...this.#at(event));
  }
}
