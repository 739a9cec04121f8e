// One picture of the page's list: what is known of it, its way through the service, and its results of this visit.

import * as service from "./service.js";
import { t } from "./texts.js";

// The service answers at the job's end, or after so many seconds with how far it is.
const WAIT_SECONDS = 0.3;
const LONG_WAIT_SECONDS = 1;
const LONG_AFTER_MS = 6000;
/** A network that is away for a minute ends no work of hours. */
const [AWAY_TRIES, AWAY_SECONDS] = [20, 3];
const THUMBNAIL_PX = 256;
const RESULTS_KEPT = 8; // of one picture
/** Results with more pixels are compared as a smaller preview; a browser would take gigabytes. */
const SHOWN_PIXELS = 24e6;
const ESTIMATE_TRIES = 5;
/** Words of the service for a file that is no use, however often it is sent. */
const BROKEN = ["picture", "too_large"];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Wait for a job's end; `told` is called with how far it is. A job that failed is an error. */
export async function ended(job, signal, told = () => {}) {
  const started = performance.now();
  let away = 0;
  while (!["done", "failed", "cancelled"].includes(job.state)) {
    told(job);
    const wait = performance.now() - started > LONG_AFTER_MS ? LONG_WAIT_SECONDS : WAIT_SECONDS;
    try {
      job = await service.jobStatus(job.id, wait, signal);
      away = 0;
    } catch (error) {
      const isAway = error instanceof service.ServiceError && error.status === 0;
      if (!isAway || ++away > AWAY_TRIES) throw error;
      await pause(1000 * AWAY_SECONDS);
    }
  }
  if (job.state === "cancelled") throw new DOMException("cancelled", "AbortError");
  if (job.state === "failed") throw new service.ServiceError(job.error, { status: 422, code: job.cause, field: job.field });
  return job;
}

export class Picture {
  static #count = 0;

  /** `file` is null for a picture whose results came back after a reload; `told` is what the service offers. */
  constructor(file, name, { shownTypes, videoEndings }) {
    this.shownTypes = shownTypes;
    this.isVideo = (file?.type ?? "").startsWith("video/") || videoEndings.some((ending) => name.toLowerCase().endsWith(ending));
    this.frames = null; // of a video; 0 where its file does not say
    this.isPlayable = true; // whether this browser plays the video
    this.id = ++Picture.#count;
    this.file = file;
    this.name = name;
    this.state = "ready"; // ready, waiting, working, done, failed, cancelled, broken
    this.address = null; // of the input, shown as "before"
    this.image = null; // the same, decoded
    this.isShownWhole = false; // whether that image has the picture's own pixels
    this.thumbnail = null;
    this.width = 0;
    this.height = 0;
    this.found = null; // {blur, noise}
    this.isLookedAt = false;
    this.results = []; // {number, job, key, command, fit, isSaved}, the newest last
    this.result = null; // the one that is shown
    this.against = null; // another one that is shown in place of the input
    this.error = null;
    this.share = 0; // of the present work, 0 to 1
    this.doing = "";
    this.secondsLeft = null;
    this.abort = null;
    this.running = null; // the id of the job that is under way
  }

  /** Whether pieces of it can be previewed: a browser knows the pixels of a video only where they are square. */
  get hasPieces() {
    return Boolean(this.image) && (!this.isVideo || (this.isPlayable && this.image.naturalWidth === this.width));
  }

  /** Whether it can be restored, as far as is known. */
  get isUsable() {
    return Boolean(this.file) && this.state !== "broken";
  }

  /** Whether it was seen, or looked at as far as it goes. */
  get isKnown() {
    return Boolean(this.image || this.found) || this.isLookedAt;
  }

  /** Find out what can be known without restoring it. `changed` is called whenever something is. */
  async look(model, changed) {
    if (!this.address) await this.#see();
    changed();
    for (let attempt = 0; !this.found && attempt < ESTIMATE_TRIES; attempt++) {
      try {
        const estimate = await service.estimate(this.file, model);
        [this.width, this.height, this.frames] = [estimate.width, estimate.height, estimate.frames];
        this.found = { blur: estimate.blur, noise: estimate.noise };
      } catch (error) {
        if (error.status === 503) {
          await pause(1000 * (error.retryAfter || 1));
          continue;
        }
        this.fail(error);
        break;
      }
    }
    this.isLookedAt = true;
    changed();
  }

  /** Whether the service takes a file of this size. */
  fits(largestBytes) {
    if (this.file.size <= largestBytes) return true;
    const [given, allowed] = [this.file.size, largestBytes].map((bytes) => `${(bytes / 2 ** 20).toFixed(0)} MB`);
    this.fail(new service.ServiceError(t("error.largeFile", { name: this.name, given, allowed }), { code: "too_large", isTranslated: true }));
    return false;
  }

  fail(error) {
    this.state = BROKEN.includes(error.code) ? "broken" : "failed";
    this.error = error;
  }

  async #see() {
    const image = new Image();
    const show = async (blob) => {
      image.src = URL.createObjectURL(blob);
      await image.decode();
    };
    let playing = null; // address of a video
    try {
      if (this.isVideo) playing = await firstFrame(this.file, show);
      else await show(this.file);
      this.isShownWhole = !this.isVideo;
    } catch {
      if (image.src) URL.revokeObjectURL(image.src);
      this.isPlayable = false;
      try {
        await show(await service.preview(this.file));
      } catch {
        return; // the estimate says why it cannot be read
      }
    }
    [this.address, this.image] = [playing ?? image.src, image];
    [this.width, this.height] = [image.naturalWidth, image.naturalHeight];
    this.thumbnail = this.drawn(THUMBNAIL_PX);
  }

  /** The picture with a shorter side of at most so many pixels, as an address. */
  drawn(largest) {
    const factor = Math.min(1, largest / Math.min(this.image.naturalWidth, this.image.naturalHeight));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.image.naturalWidth, this.image.naturalHeight].map((side) => Math.ceil(side * factor));
    canvas.getContext("2d").drawImage(this.image, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/webp", 0.85);
  }

  /**
   * Send it, follow its job, and keep the result.
   * @param {object} fields the form's fields
   * @param {object} about
   * @param {string} about.key the same for the same settings
   * @param {string} about.command the same settings as a command
   * @param {string} about.fit how the input fills the result's size
   * @param {Promise} about.turn resolved when the pictures before it have been handed in
   * @param {Function} about.handedIn to be called when this one has been, or never will be
   * @param {Function} changed
   */
  async restore(fields, { key, command, fit, turn, handedIn }, changed) {
    const abort = new AbortController();
    Object.assign(this, { state: "working", error: null, share: 0, doing: t("stage.sending"), tiles: null, secondsLeft: null, abort });
    changed();
    let job = null;
    try {
      await turn;
      abort.signal.throwIfAborted();
      job = await this.#submitted(this.isVideo ? withoutFormat(fields) : fields, abort, changed);
      handedIn();
      this.running = job.id;
      abort.signal.throwIfAborted();
      job = await ended(job, abort.signal, (now) => {
        this.#follow(now);
        changed();
      });
      this.#keep({ job, key, command, fit, isSaved: false });
      this.found = { blur: job.result.estimated_blur, noise: job.result.estimated_noise };
    } catch (error) {
      if (error.name === "AbortError") {
        this.state = "cancelled";
        // The work itself is stopped, not only the waiting for it.
        if (job) await service.cancelJob(job.id).catch(() => {});
      } else {
        this.fail(error);
      }
    }
    handedIn();
    this.abort = this.running = null;
    changed();
  }

  /** A result of the same settings takes the place of the one before; the oldest go. */
  #keep(result) {
    const old = this.results.filter((each) => each.key === result.key);
    const kept = this.results.filter((each) => each.key !== result.key);
    old.push(...kept.splice(0, Math.max(0, kept.length + 1 - RESULTS_KEPT)));
    this.results = [...kept, { ...result, number: (this.results.at(-1)?.number ?? 0) + 1 }];
    [this.state, this.result, this.share] = ["done", this.results.at(-1), 1];
    if (old.includes(this.against)) this.against = null;
    for (const each of old) service.cancelJob(each.job.id).catch(() => {});
  }

  async #submitted(fields, abort, changed) {
    for (;;) {
      try {
        return await service.submit(this.file, fields, {
          signal: abort.signal,
          sent: (share) => {
            this.doing = t(share < 1 ? "stage.sending" : "stage.waiting");
            changed();
          },
        });
      } catch (error) {
        if (![429, 503].includes(error.status) || !error.retryAfter) throw error;
        this.doing = t("stage.busy");
        changed();
        await pause(1000 * error.retryAfter);
        abort.signal.throwIfAborted();
      }
    }
  }

  #follow(job) {
    const stages = ["waiting", "reading", "estimating", "restoring", "writing"];
    this.doing = t(`stage.${stages.includes(job.stage) ? job.stage : "restoring"}`);
    this.part = job.part;
    const isCounted = job.stage === "restoring" || (job.stage === "estimating" && job.part === "frame");
    this.tiles = isCounted && job.num_tiles > 1 ? [Math.min(job.tile + 1, job.num_tiles), job.num_tiles] : null;
    this.share = job.fraction;
    this.secondsLeft = job.seconds_left;
  }

  cancel() {
    this.abort?.abort();
  }

  /** What the comparison shows. */
  get pair() {
    if (this.isVideo) return this.#videoPair;
    const before = this.against ? this.#addressOf(this.against) : this.address ?? "";
    const shared = { before, name: this.name, fit: this.against ? "fill" : this.result?.fit ?? "fill", isMoving: false };
    const tags = [this.against ? resultName(this.against) : t("compare.before"), t("compare.after")];
    if (!this.result) return { ...shared, tags, after: null, width: this.width || 4, height: this.height || 3 };
    if (this.against) tags[1] = resultName(this.result);
    const { width, height } = this.result.job.result;
    return { ...shared, tags, after: this.#addressOf(this.result), width, height };
  }

  /** Videos are compared with videos only: one that the browser does not play is left out. */
  get #videoPair() {
    const isKnown = Boolean(this.image);
    const aspect = isKnown && this.isPlayable ? this.image.naturalWidth / this.image.naturalHeight / (this.width / this.height) : 1;
    const shaped = ({ width, height }) => ({ width: Math.round(width * aspect) || 4, height: height || 3 });
    const tags = [this.against ? resultName(this.against) : t("compare.before"), this.against ? resultName(this.result) : t("compare.after")];
    const shared = { name: this.name, tags, fit: this.against ? "fill" : this.result?.fit ?? "fill" };
    const own = this.isPlayable ? this.address ?? "" : "";
    const after = this.result && !this.result.isUnplayable ? this.#addressOf(this.result) : null;
    const before = this.against ? (this.against.isUnplayable ? "" : this.#addressOf(this.against)) : own;
    if (!before && !after) return { ...shared, before: this.isPlayable ? "" : this.address ?? "", after: null, isMoving: false, ...shaped(this) };
    return { ...shared, before, after, isMoving: true, ...shaped(after ? this.result.job.result : this) };
  }

  #addressOf({ job }) {
    if (this.isVideo) return service.resultAddress(job.id);
    const { width, height, media_type: type } = job.result;
    const isShown = this.shownTypes.includes(type) && width * height <= SHOWN_PIXELS;
    return isShown ? service.resultAddress(job.id) : service.previewAddress(job.id);
  }

  /** Leave it; the service forgets its files as well. */
  forget() {
    this.cancel();
    for (const { job } of this.results) service.cancelJob(job.id).catch(() => {});
    if (this.address?.startsWith("blob:")) URL.revokeObjectURL(this.address);
  }

  /** The page is closing: nobody waits for this work any more. */
  abandon() {
    if (this.state === "working" && this.running) service.cancelJob(this.running, { keepalive: true }).catch(() => {});
  }
}

/** Have `show` take the first frame of a video as a picture; resolves to the address that it is played from. */
async function firstFrame(file, show) {
  const video = document.createElement("video");
  Object.assign(video, { muted: true, preload: "auto", src: URL.createObjectURL(file) });
  try {
    await new Promise((resolve, reject) => {
      video.addEventListener("loadeddata", resolve, { once: true });
      video.addEventListener("error", () => reject(video.error), { once: true });
    });
    // Of some it plays the sound alone.
    if (!video.videoWidth) throw new DOMException("no frame", "NotSupportedError");
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    await show(await new Promise((resolve) => canvas.toBlob(resolve, "image/png")));
    return video.src;
  } catch (error) {
    URL.revokeObjectURL(video.src);
    throw error;
  }
}

/** A video keeps its container. */
const withoutFormat = ({ format, ...fields }) => fields;

export const resultName = ({ number }) => t("history.result", { number });
