// One picture of the page's list: what is known of it, its way through the service, and its place in the strip.

import * as service from "./service.js";

// The service answers at the job's end, or after so many seconds with how far it is.
const WAIT_SECONDS = 0.3;
const LONG_WAIT_SECONDS = 1;
const LONG_AFTER_MS = 6000;
const THUMBNAIL_PX = 256;
/** Results with more pixels are compared as a smaller preview; a browser would take gigabytes. */
const SHOWN_PIXELS = 24e6;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Picture {
  static #count = 0;

  constructor(file, shownTypes) {
    this.shownTypes = shownTypes;
    this.id = ++Picture.#count;
    this.file = file;
    this.name = file.name || "picture.png";
    this.state = "ready"; // ready, working, done, failed, cancelled
    this.address = null; // of the input, shown as "before"
    this.thumbnail = null;
    this.width = 0;
    this.height = 0;
    this.found = null; // {blur, noise}
    this.job = null; // of the last restoration
    this.command = null; // that of the last restoration
    this.fit = "fill";
    this.error = null;
    this.share = 0; // of the present work, 0 to 1
    this.doing = "";
    this.secondsLeft = null;
    this.abort = null;
    this.running = null; // the id of the job that is under way
  }

  /** Find out what can be known without restoring it. `changed` is called whenever something is. */
  async look(model, changed) {
    if (!this.address) await this.#see();
    changed();
    if (this.found) return;
    for (let attempt = 0; attempt < 5; attempt++) {
      try {
        const estimate = await service.estimate(this.file, model);
        [this.width, this.height] = [estimate.width, estimate.height];
        this.found = { blur: estimate.blur, noise: estimate.noise };
        break;
      } catch (error) {
        if (error.status === 503) {
          await pause(1000 * (error.retryAfter || 1));
          continue;
        }
        this.state = "failed";
        this.error = error;
        break;
      }
    }
    changed();
  }

  async #see() {
    const image = new Image();
    const address = URL.createObjectURL(this.file);
    image.src = address;
    try {
      await image.decode();
      this.address = address;
    } catch {
      URL.revokeObjectURL(address);
      try {
        this.address = await service.preview(this.file);
        image.src = this.address;
        await image.decode();
      } catch {
        return; // the estimate says why it cannot be read
      }
    }
    [this.width, this.height] = [image.naturalWidth, image.naturalHeight];
    const factor = Math.min(1, THUMBNAIL_PX / Math.min(this.width, this.height));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.ceil(this.width * factor), Math.ceil(this.height * factor)];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    this.thumbnail = canvas.toDataURL("image/webp", 0.85);
  }

  /**
   * Send it, follow its job, and keep the result.
   * @param {object} fields the form's fields
   * @param {object} about
   * @param {string} about.command the same settings as a command
   * @param {string} about.fit how the input fills the result's size
   * @param {Promise} about.turn resolved when the pictures before it have been handed in
   * @param {Function} about.handedIn to be called when this one has been, or never will be
   * @param {Function} changed
   */
  async restore(fields, { command, fit, turn, handedIn }, changed) {
    const abort = new AbortController();
    Object.assign(this, { state: "working", error: null, share: 0, doing: "Sending", secondsLeft: null, abort });
    changed();
    let job = null;
    try {
      await turn;
      abort.signal.throwIfAborted();
      job = await this.#submitted(fields, abort, changed);
      handedIn();
      this.running = job.id;
      abort.signal.throwIfAborted();
      const started = performance.now();
      while (!["done", "failed", "cancelled"].includes(job.state)) {
        this.#follow(job);
        changed();
        const wait = performance.now() - started > LONG_AFTER_MS ? LONG_WAIT_SECONDS : WAIT_SECONDS;
        job = await service.jobStatus(job.id, wait, abort.signal);
      }
      if (job.state === "failed") throw new service.ServiceError(job.error, { status: 422, field: job.field });
      if (job.state === "cancelled") throw new DOMException("cancelled", "AbortError");
      if (this.job) service.cancelJob(this.job.id).catch(() => {}); // the result before this one
      Object.assign(this, { state: "done", job, command, fit, share: 1 });
      this.found = { blur: job.result.estimated_blur, noise: job.result.estimated_noise };
    } catch (error) {
      if (error.name === "AbortError") {
        this.state = "cancelled";
        // The work itself is stopped, not only the waiting for it.
        if (job) await service.cancelJob(job.id).catch(() => {});
      } else {
        this.state = "failed";
        this.error = error;
      }
    }
    handedIn();
    this.abort = this.running = null;
    changed();
  }

  async #submitted(fields, abort, changed) {
    for (;;) {
      try {
        return await service.submit(this.file, fields, {
          signal: abort.signal,
          sent: (share) => {
            this.doing = share < 1 ? "Sending" : "Waiting";
            changed();
          },
        });
      } catch (error) {
        if (![429, 503].includes(error.status) || !error.retryAfter) throw error;
        this.doing = "Waiting for the service, which is busy";
        changed();
        await pause(1000 * error.retryAfter);
        abort.signal.throwIfAborted();
      }
    }
  }

  #follow(job) {
    const stages = { waiting: "Waiting", reading: "Reading", estimating: "Estimating", restoring: "Restoring", writing: "Writing" };
    this.doing = stages[job.stage] ?? "Restoring";
    this.part = job.part;
    this.tiles = job.stage === "restoring" && job.num_tiles > 1 ? [Math.min(job.tile + 1, job.num_tiles), job.num_tiles] : null;
    this.share = job.fraction;
    this.secondsLeft = job.seconds_left;
  }

  cancel() {
    this.abort?.abort();
  }

  /** What the comparison shows. */
  get pair() {
    const shared = { before: this.address ?? "", name: this.name, fit: this.fit };
    if (!this.job) return { ...shared, after: null, width: this.width || 4, height: this.height || 3 };
    const { width, height, media_type: type } = this.job.result;
    const isShown = this.shownTypes.includes(type) && width * height <= SHOWN_PIXELS;
    const after = isShown ? service.resultAddress(this.job.id) : service.previewAddress(this.job.id);
    return { ...shared, after, width, height };
  }

  /** Leave it; the service forgets its files as well. */
  forget() {
    this.cancel();
    if (this.job) service.cancelJob(this.job.id).catch(() => {});
    if (this.address) URL.revokeObjectURL(this.address);
  }

  /** The page is closing: nobody waits for this work any more. */
  abandon() {
    if (this.state === "working" && this.running) service.cancelJob(this.running, { keepalive: true }).catch(() => {});
  }
}
