// The controls of the videos in the comparison: both play, stop and jump together.

import { t } from "./texts.js";

const USUAL_FRAME_SECONDS = 0.04;
const LARGEST_DRIFT_SECONDS = 0.3; // beyond it the follower jumps
const DRIFT_SECONDS = 0.02; // below it both show the same frame
const CATCH_UP = 0.5; // share of a second's drift that the follower's speed makes up for

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

export class Player {
  #root;
  #videos; // before, after
  #shown = []; // of these, the one that leads first: the result where there is one
  #isMuted = false;
  #frames = 0; // of the whole video; 0 while unknown
  #started;

  /**
   * @param {Element} root holds the videos and `.player`
   * @param {Function} started called when they begin to play or jump
   */
  constructor(root, started) {
    [this.#root, this.#started] = [root, started];
    this.#videos = [...root.querySelectorAll("video")];
    for (const video of this.#videos) {
      for (const event of ["play", "pause", "timeupdate", "durationchange", "seeked", "ended"]) video.addEventListener(event, () => this.#changed(video, event));
    }
    this.#find(".play").addEventListener("click", () => this.toggle());
    this.#find(".seek").addEventListener("input", (event) => this.#jump(Number(event.target.value)));
    this.#find(".sound").addEventListener("click", () => {
      this.#isMuted = !this.#isMuted;
      this.#draw();
    });
  }

  #find = (selector) => this.#root.querySelector(`.player ${selector}`);

  get #lead() {
    return this.#shown[0];
  }

  /** Take over what the comparison shows; `frames` of the whole video, for single steps. */
  show(frames) {
    const shown = this.#videos.filter((video) => !video.hidden).reverse();
    const isSame = shown.length === this.#shown.length && shown.every((video, index) => video === this.#shown[index]);
    this.#shown = shown;
    this.#root.querySelector(".player").hidden = shown.length === 0;
    if (!isSame) this.stop();
    this.#frames = frames ?? 0;
    this.#draw();
  }

  get isPlaying() {
    return Boolean(this.#lead) && !this.#lead.paused && !this.#lead.ended;
  }

  toggle() {
    if (this.isPlaying) this.stop();
    else void this.play();
  }

  async play() {
    if (!this.#lead) return;
    this.#started();
    if (this.#lead.ended) this.#jump(0);
    // A browser may refuse, or a new source may come meanwhile: the button shows what is.
    const begun = this.#shown.map((video) => video.play());
    this.#draw();
    await Promise.all(begun).catch(() => this.stop());
  }

  stop() {
    for (const video of this.#videos) {
      video.pause();
      video.playbackRate = 1;
    }
    this.#align();
    this.#draw();
  }

  /** One frame forth or back. */
  step(direction) {
    if (!this.#lead) return;
    this.stop();
    const duration = this.#lead.duration || 0;
    const seconds = this.#frames ? duration / this.#frames : USUAL_FRAME_SECONDS;
    this.#jump(Math.min(Math.max(0, this.#lead.currentTime + direction * seconds), duration));
  }

  #jump(seconds) {
    this.#started();
    for (const video of this.#shown) video.currentTime = seconds;
    this.#draw();
  }

  /** Put all of them where the first one is. */
  #align() {
    for (const video of this.#shown.slice(1)) {
      if (video.currentTime !== this.#lead.currentTime) video.currentTime = this.#lead.currentTime;
    }
  }

  #changed(video, event) {
    if (video !== this.#lead) return;
    if (event === "pause" || event === "ended") this.stop();
    if (event === "timeupdate" && this.isPlaying) for (const other of this.#shown.slice(1)) this.#follow(other);
    this.#draw();
  }

  #follow(video) {
    const drift = video.currentTime - this.#lead.currentTime;
    if (Math.abs(drift) > LARGEST_DRIFT_SECONDS) video.currentTime = this.#lead.currentTime;
    video.playbackRate = Math.abs(drift) < DRIFT_SECONDS ? 1 : 1 - CATCH_UP * Math.max(-0.3, Math.min(0.3, drift));
  }

  #draw() {
    const lead = this.#lead;
    const duration = Number.isFinite(lead?.duration) ? lead.duration : 0;
    const [play, seek, sound] = [".play", ".seek", ".sound"].map(this.#find);
    play.textContent = t(this.isPlaying ? "player.pause" : "player.play");
    [seek.max, seek.value] = [String(duration), String(lead?.currentTime ?? 0)];
    const words = `${clock(lead?.currentTime ?? 0)} / ${clock(duration)}`;
    seek.setAttribute("aria-valuetext", words);
    this.#find(".time").textContent = words;
    sound.setAttribute("aria-pressed", String(!this.#isMuted));
    for (const video of this.#videos) video.muted = this.#isMuted || video !== lead;
  }
}
