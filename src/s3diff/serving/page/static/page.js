// The page: pictures in, their way through the service, the comparison, and what the panel has to do with it. The one
// state that all parts share, which picture is where, stays in one class.

import { copyText } from "./clipboard.js";
import { Compare } from "./compare.js";
import { Controls } from "./controls.js";
import { bringIntoView, element } from "./elements.js";
import { showExamples } from "./examples.js";
import { exportPair } from "./export.js";
import { setUpFullScreen } from "./full_screen.js";
import { takeIn } from "./intake.js";
import { setUpKeys } from "./keys.js";
import { setUpLoupe } from "./loupe.js";
import { setUpOrigin } from "./origin.js";
import { Picture } from "./pictures.js";
import { Player } from "./player.js";
import { Presets } from "./presets.js";
import { Region } from "./region.js";
import { Run } from "./run.js";
import * as service from "./service.js";
import { keepResults, keptPictures, setUpLeaving } from "./session.js";
import { MissingValue, Settings } from "./settings.js";
import { plain, setUpLanguage, t, writeTexts } from "./texts.js";
import { setUpTheme } from "./theme.js";
import { View } from "./view.js";
import { duration, said } from "./words.js";

const CHECK_AFTER_MS = 350;
const RESULT_NAME = "{stem}-restored"; // so that a download does not look like the picture it was made of

class Page {
  #told = JSON.parse(document.getElementById("told").textContent);
  #work = document.querySelector(".work");
  #controls;
  #settings;
  #compare;
  #player;
  #region;
  #run;
  #presets;
  #view;
  #nameExamples;
  #pictures = [];
  #current = null;
  #check = null;
  #checks = 0; // only the newest one's answer counts
  #lookingAt = Promise.resolve();
  #plan = null; // of the present settings; null while they are none

  constructor() {
    this.#controls = new Controls(document.getElementById("panel"), this.#told, {
      changed: (field, value) => this.#changed(field, value),
      entered: () => void this.#restore(),
    });
    this.#settings = new Settings(this.#controls);
    this.#compare = new Compare(this.#find(".compare"), (x, y) => this.#clicked(x, y));
    this.#region = new Region(this.#compare);
    this.#player = new Player(this.#find(".compare"), () => this.#region.close());
    this.#run = new Run(this.#work);
    this.#find(".videos").hidden = this.#told.videoEndings.length === 0;
    this.#view = new View({ compare: this.#compare, controls: this.#controls, player: this.#player, region: this.#region, run: this.#run }, {
      changed: () => this.#draw(),
      pick: (picture) => this.#select(picture),
      remove: (picture) => this.#remove(picture),
    });
    this.#presets = new Presets(document.getElementById("part-presets"), this.#told, (options) => this.#take(options));
    this.#listen();
    this.#nameExamples = showExamples(this.#find(".examples"), this.#told.examples, {
      chosen: (file) => {
        this.#add([file]);
        return this.#restore();
      },
      failed: (error) => this.#view.problem(said(error)),
    });
    this.#speak();
    void this.#bringBack();
  }

  get #isSeveral() {
    return this.#pictures.length > 1;
  }

  #find = (selector) => document.querySelector(selector);

  #listen() {
    const picker = this.#find(".picker");
    const on = (selector, pressed) => this.#find(selector).addEventListener("click", pressed);
    for (const each of document.querySelectorAll(".choose")) each.addEventListener("click", () => picker.click());
    picker.addEventListener("change", () => {
      this.#add([...picker.files]);
      picker.value = "";
    });
    takeIn(this.#work, this.#told.endings, (files, numLeftOut) => this.#add(files, numLeftOut));
    on("#run", () => void this.#restore());
    on("#defaults", () => this.#defaults());
    on(".cancel", () => this.#run.cancel());
    on(".clear", () => this.#clear());
    on(".copy", (event) => void copyText(event.target, this.#find(".command code")));
    on(".zip", () => this.#fetchZip());
    on(".export", () => exportPair(this.#find(".compare"), this.#compare.images, this.#current));
    on(".download", () => this.#saved([this.#current.result]));
    on(".follow", () => this.#follow());
    on(".preview", () => this.#clicked(0.5, 0.5, true));
    this.#find(".after").addEventListener("error", () => this.#view.problem(t("error.gone")));
    for (const video of document.querySelectorAll(".frame video")) {
      video.addEventListener("error", () => this.#cannotPlay(video));
      video.addEventListener("loadedmetadata", () => video.videoWidth || this.#cannotPlay(video)); // only the sound
    }
    setUpLeaving(() => this.#pictures, this.#run);
    setUpOrigin(this.#find(".about"), this.#find("dialog.origin"), {
      picture: () => this.#current,
      failed: (error) => this.#view.problem(said(error)),
    });
    const turnTheme = setUpTheme(this.#find(".theme"));
    setUpLanguage(this.#find(".language"), () => [turnTheme(), this.#speak()]);
    setUpKeys(this.#find("dialog.keys"), this.#find(".help"), {
      compare: this.#compare,
      player: this.#player,
      loupe: setUpLoupe(this.#find(".compare"), this.#compare),
      fullScreen: setUpFullScreen(this.#find(".compare")),
      neighbour: (step) => this.#select(this.#pictures[this.#pictures.indexOf(this.#current) + step] ?? this.#current),
      press: (selector) => this.#find(selector)?.click(),
    });
  }

  /** Write all texts, at the start and in another language. */
  #speak() {
    writeTexts();
    const formats = t("empty.formats", { formats: this.#told.formats.join(", ") });
    const videos = t("empty.videos", { count: plain(this.#told.videoFrames) });
    this.#find(".formats").textContent = this.#told.videoEndings.length ? `${formats} ${videos}` : formats;
    this.#find(".kept").textContent = t("empty.kept", { time: duration(this.#told.keepSeconds) });
    this.#find(".sign-out").hidden = !this.#told.hasLogin;
    this.#nameExamples();
    this.#controls.name();
    this.#presets.name();
    this.#view.forget();
    this.#moveDial();
    this.#draw();
    void this.#checkNow();
  }

  // ------------------------------------------------------------------------------------------ pictures in

  #add(files, numLeftOut = 0) {
    this.#view.problem(numLeftOut ? t("error.leftOut", { count: numLeftOut }) : "");
    for (const file of files) {
      const picture = new Picture(file, file.name || "picture.png", this.#told);
      this.#pictures.push(picture);
      if (picture.fits(this.#told.uploadBytes)) this.#lookAt(picture);
    }
    if (files.length) this.#select(this.#pictures.at(-files.length));
    this.#settingsChanged();
  }

  /** One after the other, so that pictures that are restored have the service to themselves. */
  #lookAt(picture) {
    this.#lookingAt = this.#lookingAt.then(async () => {
      if (!this.#pictures.includes(picture)) return;
      await picture.look(this.#controls.value("model"), () => {
        if (picture === this.#current) this.#moveDial();
        this.#draw();
      });
      this.#settingsChanged();
    });
  }

  async #bringBack() {
    this.#pictures.push(...(await keptPictures(this.#told)));
    if (this.#pictures.length) this.#select(this.#pictures[0]);
    this.#work.dataset.ready = "true";
  }

  #select(picture) {
    this.#region.close();
    this.#current = picture;
    this.#controls.keepProportion(picture?.width, picture?.height);
    this.#moveDial();
    this.#draw();
  }

  #remove(picture) {
    const index = this.#pictures.indexOf(picture);
    picture.forget();
    this.#pictures = this.#pictures.filter((each) => each !== picture);
    keepResults(this.#pictures);
    this.#select(this.#pictures[Math.min(index, this.#pictures.length - 1)] ?? null);
    this.#settingsChanged();
    (this.#find(".strip .pick") ?? this.#find(".choose")).focus();
  }

  #clear() {
    for (const picture of this.#pictures) picture.forget();
    this.#pictures = [];
    keepResults([]);
    this.#settings.follow();
    this.#markPreset();
    this.#view.problem("");
    this.#select(null);
    this.#settingsChanged();
    this.#find(".target .choose").focus();
  }

  // ------------------------------------------------------------------------------------------ the panel

  #changed(field, value) {
    if (field === "blur" || field === "noise") this.#settings.turn(field, value, this.#current?.found);
    this.#markPreset();
    if (field === "model") {
      // Every model has an estimator of its own.
      for (const picture of this.#pictures) {
        if (!picture.isUsable) continue;
        picture.found = null;
        this.#lookAt(picture);
      }
    }
    this.#settings.tell(this.#find(".found"), this.#current?.found, this.#isSeveral);
    this.#settingsChanged();
  }

  #markPreset() {
    this.#presets.markLike(() => this.#settings.options(this.#isSeveral));
  }

  #follow() {
    this.#settings.follow();
    this.#markPreset();
    this.#moveDial();
    this.#settingsChanged();
  }

  #defaults() {
    this.#controls.reset();
    this.#follow();
  }

  /** Set what a preset sets; everything else goes back to its default, but for the model. */
  #take(options) {
    const model = this.#controls.value("model");
    this.#controls.reset();
    this.#controls.set("model", model);
    this.#settings.follow();
    for (const [field, value] of Object.entries(options)) {
      if (field === "blur" || field === "noise") this.#settings.preset(field, value);
      else this.#controls.set(field, value);
      if (this.#told.sizeFields.includes(field)) this.#controls.set("size_by", field);
    }
    this.#moveDial();
    this.#settingsChanged();
  }

  #moveDial() {
    this.#settings.show(this.#current?.found, this.#isSeveral);
    this.#settings.tell(this.#find(".found"), this.#current?.found, this.#isSeveral);
  }

  #settingsChanged() {
    this.#draw();
    clearTimeout(this.#check);
    this.#check = setTimeout(() => void this.#checkNow(), CHECK_AFTER_MS);
  }

  /** Ask what the settings mean; what is wrong with them stands beside its control before anything is sent. */
  async #checkNow() {
    const number = ++this.#checks;
    const isOld = () => number !== this.#checks;
    try {
      const plan = await this.#planOf();
      if (isOld()) return;
      this.#plan = plan;
      this.#controls.forgive();
    } catch (error) {
      if (isOld()) return;
      this.#plan = null;
      if (error.status === 422) this.#blame(error);
      else if (error instanceof MissingValue) this.#controls.forgive();
    }
    this.#draw();
    if (this.#region.isOn && this.#plan && !this.#run.isBusy) await this.#previewRegion();
  }

  #planOf() {
    const { model, ...options } = this.#fields();
    const pictures = this.#pictures.filter((each) => each.isUsable).map(({ name, width, height, isVideo, frames }) => ({ name, size: width ? [width, height] : null, frames: isVideo ? frames ?? 0 : null }));
    return service.plan({ options, model, pictures });
  }

  /** The service's form fields for the present settings. */
  #fields() {
    const options = { name: RESULT_NAME, ...this.#settings.options(this.#isSeveral) };
    return Object.fromEntries(Object.entries(options).map(([name, value]) => [name, String(value)]));
  }

  /** The same for the same settings; null while there are none. */
  #key() {
    try {
      return JSON.stringify(this.#fields());
    } catch {
      return null;
    }
  }

  #blame(error) {
    this.#controls.forgive();
    if (!this.#controls.blame(error)) this.#view.problem(said(error));
  }

  // ------------------------------------------------------------------------------------------ restoring

  async #restore() {
    if (this.#run.isBusy || this.#work.dataset.busy === "true" || !this.#pictures.some((each) => each.isUsable)) return;
    clearTimeout(this.#check);
    this.#view.problem("");
    this.#work.dataset.busy = "true";
    try {
      await this.#restoreAll();
    } finally {
      this.#work.dataset.busy = "false";
    }
  }

  async #restoreAll() {
    let fields;
    try {
      fields = this.#fields();
      this.#plan = await this.#planOf();
    } catch (error) {
      this.#blame(error);
      return;
    }
    this.#controls.forgive();
    this.#region.close();
    const key = JSON.stringify(fields);
    const usable = this.#pictures.filter((picture) => picture.isUsable);
    const open = usable.filter((picture) => picture.result?.key !== key);
    const batch = open.length ? open : usable;
    this.#find(".announce").textContent = t("stage.restoring");
    const about = { key, command: this.#plan.command, fit: this.#settings.fit };
    bringIntoView(this.#find(".frame"));
    const words = await this.#run.restore(batch, fields, about, () => this.#draw());
    this.#find(".announce").textContent = words;
    keepResults(this.#pictures);
    const failed = batch.find((picture) => picture.state === "failed");
    if (failed?.error.field && batch.length === 1) this.#blame(failed.error);
    this.#plan = await this.#planOf().catch(() => this.#plan); // the service knows better now how long it takes
    this.#moveDial();
    this.#draw();
  }

  /** A click into the picture restores a piece of it, where nothing else is to be seen there. */
  #clicked(x, y, isWanted = false) {
    const isFree = !this.#isDone || this.#region.isOn;
    if (!(isWanted || isFree) || !this.#canPreview) return false;
    this.#region.choose(this.#current, x, y, this.#planned(this.#current)?.seconds);
    void this.#previewRegion();
    return true;
  }

  /** What the present settings make of a picture: width, height, seconds; nothing while that is not known. */
  #planned(picture) {
    return this.#plan?.results[this.#pictures.filter((each) => each.isUsable).indexOf(picture)];
  }

  async #previewRegion() {
    const picture = this.#current;
    const result = this.#planned(picture);
    if (!result) return;
    const fields = { ...this.#fields(), ...this.#settings.degrees(picture.found, this.#isSeveral) };
    for (const name of this.#told.sizeFields) delete fields[name];
    this.#view.hint(t("region.working"));
    try {
      const isShown = await this.#region.restore(fields, [result.width / picture.width, result.height / picture.height]);
      if (isShown) this.#view.hint(t("region.shown"));
    } catch (error) {
      this.#region.close();
      this.#view.hint("");
      this.#blame(error);
    }
  }

  // ------------------------------------------------------------------------------------------ what is seen, and out

  /** Whether the result that is shown is one of the present settings. */
  get #isDone() {
    return Boolean(this.#current?.result) && (this.#current.result.key === this.#key() || !this.#current.file);
  }

  /** Whether a piece of the picture that is shown can be restored. */
  get #canPreview() {
    return Boolean(this.#current?.isUsable && this.#current.hasPieces) && !this.#run.isBusy && this.#settings.fit !== "cover";
  }

  #draw() {
    this.#controls.keepProportion(this.#current?.width, this.#current?.height);
    this.#view.draw({
      pictures: this.#pictures,
      current: this.#current,
      plan: this.#plan,
      isDone: this.#isDone,
      canPreview: this.#canPreview,
    });
  }

  /** The browser has no decoder for a result. */
  #cannotPlay(video) {
    const result = this.#current?.results.find(({ job }) => service.resultAddress(job.id) === video.src);
    if (!result) return; // its source was taken away
    result.isUnplayable = true;
    this.#draw();
  }

  #saved(results) {
    for (const result of results) result.isSaved = true;
    keepResults(this.#pictures);
  }

  #fetchZip() {
    const results = this.#pictures.filter((picture) => picture.result).map((picture) => picture.result);
    element("a", { href: service.zipAddress(results.map(({ job }) => job.id)), download: "restored.zip" }).click();
    this.#saved(results);
  }
}

new Page();
