// The page: pictures in, their way through the service, the comparison, and what the panel has to do with it.
// Gradio's components call window.s3diff (see layout.py). (Longer than 400 lines because the one state that all of these
// share, which picture is where, stays in one class.)

import { Compare } from "./compare.js";
import { takeIn } from "./intake.js";
import { Picture } from "./pictures.js";
import * as service from "./service.js";
import { RefusedValue, Settings } from "./settings.js";
import { Strip } from "./strip.js";
import { setUpTheme } from "./theme.js";
import { caption, duration, sentence } from "./words.js";

const AT_ONCE = 3; // pictures on their way at the same time; the service puts them in order
const CHECK_AFTER_MS = 350;
const COPIED_MS = 1600;
const RESULT_NAME = "{stem}-restored"; // so that a download does not look like the picture it was made of

/** Set up the page inside `root`; `trigger` raises events of its Gradio component. */
export function start(root, trigger) {
  new Page(root, trigger);
}

class Page {
  #root;
  #told;
  #trigger;
  #settings;
  #compare;
  #strip;
  #pictures = [];
  #current = null;
  #shown = ""; // what the comparison shows now
  #check = null;
  #lookingAt = Promise.resolve();
  #batch = []; // pictures of the present run
  #batchStarted = 0;
  #isAsUsed = false; // whether the panel is as it was for the result that is shown

  constructor(root, trigger) {
    this.#root = root;
    this.#trigger = trigger;
    const work = root.querySelector(".work");
    this.#told = JSON.parse(work.dataset.told);
    this.#settings = new Settings(this.#told);
    this.#compare = new Compare(root.querySelector(".compare"));
    this.#strip = new Strip(root.querySelector(".strip"), {
      pick: (picture) => this.#select(picture),
      remove: (picture) => this.#remove(picture),
    });
    this.#listen();
    this.#showExamples();
    this.#find(".kept").textContent = `Pictures go to this service alone, which forgets them after ${duration(this.#told.keepSeconds)}.`;
    setUpTheme();
    this.#isBusy(false);
    this.#tellCommand();
    window.s3diff = {
      run: (values) => void this.#run(values),
      changed: (values) => this.#changed(values),
      turned: (field, value) => this.#turned(field, value),
      dial: () => this.#settings.dial(this.#current?.found, this.#isSeveral),
      defaults: () => this.#defaults(),
    };
    work.dataset.ready = "true";
  }

  get #isSeveral() {
    return this.#pictures.length > 1;
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }

  // ------------------------------------------------------------------------------------------ pictures in

  #listen() {
    const picker = this.#find(".picker");
    for (const button of this.#root.querySelectorAll(".choose")) button.addEventListener("click", () => picker.click());
    picker.addEventListener("change", () => {
      this.#add([...picker.files]);
      picker.value = "";
    });
    takeIn(this.#find(".work"), (files) => this.#add(files));
    this.#find(".cancel").addEventListener("click", () => this.#cancel());
    this.#find(".clear").addEventListener("click", () => this.#clear());
    this.#find(".copy").addEventListener("click", (event) => void this.#copy(event.target));
    this.#find(".zip").addEventListener("click", () => this.#fetchZip());
    this.#find(".after").addEventListener("error", () => {
      this.#problem("The result can no longer be shown; the service keeps results for a while only. Restore it again.");
    });
    window.addEventListener("pagehide", () => this.#batch.forEach((picture) => picture.abandon()));
    document.querySelector(".follow").addEventListener("click", () => {
      this.#settings.follow();
      this.#moveDial();
      this.#settingsChanged();
    });
  }

  #showExamples() {
    const list = this.#find(".examples ul");
    for (const { name, label } of this.#told.examples) {
      const button = element("button", { type: "button", className: "example" });
      button.append(element("img", { src: service.exampleAddress(name), alt: "" }), label);
      button.addEventListener("click", () => void this.#try(name, button));
      const item = element("li");
      item.append(button);
      list.append(item);
    }
    this.#find(".examples").hidden = this.#told.examples.length === 0;
  }

  async #try(name, button) {
    button.disabled = true;
    try {
      this.#add([await service.example(name)]);
      await this.#run();
    } catch (error) {
      this.#problem(error.message);
    }
    button.disabled = false;
  }

  #add(files) {
    this.#problem("");
    for (const file of files) {
      const picture = new Picture(file, this.#told.shownTypes);
      this.#pictures.push(picture);
      if (file.size > this.#told.uploadBytes) {
        picture.state = "failed";
        const [given, allowed] = [file.size, this.#told.uploadBytes].map((bytes) => `${(bytes / 2 ** 20).toFixed(0)} MB`);
        picture.error = new service.ServiceError(`${picture.name} has ${given}; this service takes at most ${allowed}`);
        continue;
      }
      this.#lookAt(picture);
    }
    const first = this.#pictures.at(-files.length);
    if (first) this.#select(first);
    this.#settingsChanged();
  }

  /** One after the other, so that pictures that are restored have the service to themselves. */
  #lookAt(picture) {
    this.#lookingAt = this.#lookingAt.then(async () => {
      if (!this.#pictures.includes(picture)) return;
      await picture.look(this.#settings.value("model"), () => this.#looked(picture));
    });
  }

  #looked(picture) {
    if (picture === this.#current) this.#moveDial();
    this.#draw();
  }

  #select(picture) {
    this.#current = picture;
    this.#isAsUsed = picture?.state === "done";
    this.#moveDial();
    this.#draw();
    if (this.#isAsUsed) this.#showCommand(picture.command);
  }

  #remove(picture) {
    const index = this.#pictures.indexOf(picture);
    picture.forget();
    this.#pictures = this.#pictures.filter((each) => each !== picture);
    this.#select(this.#pictures[Math.min(index, this.#pictures.length - 1)] ?? null);
    this.#settingsChanged();
    const next = this.#find(".strip .pick") ?? this.#find(".choose");
    next?.focus();
  }

  #clear() {
    for (const picture of this.#pictures) picture.forget();
    this.#pictures = [];
    this.#settings.follow();
    this.#problem("");
    this.#select(null);
    this.#settingsChanged();
    this.#find(".target .choose").focus();
  }

  // ------------------------------------------------------------------------------------------ the panel

  #changed(values) {
    const model = this.#settings.value("model");
    this.#settings.take(values);
    if (this.#settings.value("model") !== model) {
      // Every model has an estimator of its own.
      for (const picture of this.#pictures) {
        picture.found = null;
        this.#lookAt(picture);
      }
    }
    this.#settingsChanged();
  }

  #turned(field, value) {
    this.#settings.turn(field, value, this.#current?.found);
    this.#tellDial();
    this.#settingsChanged();
  }

  #defaults() {
    this.#settings.follow();
    const values = this.#settings.starts;
    this.#settings.take(values);
    // The dial's place is the estimate's, which no start value knows.
    setTimeout(() => this.#moveDial());
    this.#settingsChanged();
    return values;
  }

  #moveDial() {
    this.#trigger("submit");
    this.#tellDial();
  }

  #tellDial() {
    document.querySelector(".found p").textContent = this.#settings.words(this.#current?.found, this.#isSeveral);
    document.querySelector(".follow").disabled = !this.#settings.isByHand;
  }

  #settingsChanged() {
    this.#isAsUsed = false;
    clearTimeout(this.#check);
    this.#check = setTimeout(() => void this.#tellCommand(), CHECK_AFTER_MS);
  }

  /** The present settings as a command; what is wrong with them stands beside its control before anything is sent. */
  async #tellCommand() {
    let command = null;
    try {
      command = await this.#commandOf(this.#current?.name);
    } catch (error) {
      if (error instanceof RefusedValue || error.status === 422) this.#blame(error);
      return null;
    }
    this.#settings.forgive();
    if (!this.#isAsUsed) this.#showCommand(command);
    return command;
  }

  #commandOf(name) {
    const { model, ...options } = this.#fields();
    const names = this.#isSeveral ? this.#pictures.map((each) => each.name) : name ? [name] : [];
    return service.command({ options, model, names });
  }

  /** The service's form fields for the present settings. */
  #fields() {
    return formFields({ name: RESULT_NAME, ...this.#settings.options(this.#isSeveral) });
  }

  #showCommand(command) {
    this.#find(".settings").hidden = false;
    this.#find(".settings summary").textContent = this.#isAsUsed ? "The settings used, as a command" : "These settings as a command";
    this.#find(".command code").textContent = command;
  }

  #blame(error) {
    this.#settings.forgive();
    if (!this.#settings.blame(error.field, sentence(error.message))) this.#problem(sentence(error.message));
  }

  // ------------------------------------------------------------------------------------------ restoring

  async #run(values = null) {
    if (this.#isBusy()) return;
    if (values) this.#settings.take(values);
    clearTimeout(this.#check);
    this.#problem("");
    if (this.#pictures.length === 0) {
      this.#problem("Choose a picture first, or try one of the examples.");
      return;
    }
    this.#isBusy(true);
    try {
      await this.#restoreAll();
    } finally {
      this.#isBusy(false);
    }
  }

  /** Whether a run is under way; written into the page, where tests and styles see it. */
  #isBusy(is = undefined) {
    const work = this.#find(".work");
    if (is !== undefined) work.dataset.busy = is;
    return work.dataset.busy === "true";
  }

  async #restoreAll() {
    let fields, command;
    try {
      fields = this.#fields();
      for (const picture of this.#pictures) this.#settings.requireRoom(picture, this.#told.outputPixels);
      command = await this.#commandOf(this.#current?.name);
    } catch (error) {
      this.#blame(error);
      return;
    }
    this.#settings.forgive();
    const isTooLarge = (picture) => picture.state === "failed" && picture.file.size > this.#told.uploadBytes;
    this.#batch = this.#pictures.filter((picture) => !isTooLarge(picture));
    if (this.#batch.length === 0) return;
    this.#batchStarted = performance.now();
    for (const picture of this.#batch) picture.state = "waiting";
    this.#find(".announce").textContent = "Restoring";
    const about = { command, fit: this.#settings.fit };
    const queue = [...this.#batch];
    let turn = Promise.resolve();
    const work = async () => {
      for (let picture = queue.shift(); picture; picture = queue.shift()) {
        if (picture.state !== "waiting") continue;
        const before = turn;
        let handedIn;
        turn = new Promise((resolve) => (handedIn = resolve));
        await picture.restore(fields, { ...about, turn: before, handedIn }, () => this.#draw());
      }
    };
    this.#draw();
    this.#bringIntoView();
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    this.#ended();
  }

  /** On a phone the settings may have pushed the picture out of sight. */
  #bringIntoView() {
    const { top, bottom } = this.#find(".progress").getBoundingClientRect();
    const isSeen = bottom > 0 && top < innerHeight;
    if (!isSeen) this.#find(".view").scrollIntoView({ block: "start", behavior: isCalm() ? "auto" : "smooth" });
  }

  #ended() {
    const [batch, seconds] = [this.#batch, (performance.now() - this.#batchStarted) / 1000];
    this.#batch = [];
    const number = (state) => batch.filter((picture) => picture.state === state).length;
    const failed = batch.find((picture) => picture.state === "failed");
    let words = `Restored in ${seconds.toFixed(1)} seconds`;
    if (number("cancelled")) words = "Cancelled";
    else if (batch.length > 1) words = `${number("done")} of ${batch.length} pictures restored in ${seconds.toFixed(1)} seconds`;
    else if (failed) words = "";
    this.#find(".announce").textContent = words;
    if (failed?.error.field && batch.length === 1) this.#blame(failed.error);
    this.#isAsUsed = this.#current?.state === "done";
    if (this.#isAsUsed) this.#showCommand(this.#current.command);
    if (this.#current) this.#moveDial();
    this.#draw();
  }

  #cancel() {
    for (const picture of this.#batch) {
      if (picture.state === "waiting") picture.state = "cancelled";
      picture.cancel();
    }
    this.#draw();
  }

  // ------------------------------------------------------------------------------------------ what is seen

  #draw() {
    const current = this.#current;
    this.#find(".empty").hidden = Boolean(current);
    this.#find(".view").hidden = !current;
    document.getElementById("run")?.toggleAttribute("disabled", this.#batch.length > 0);
    this.#drawProgress();
    if (!current) {
      this.#shown = "";
      return;
    }
    const pair = current.pair;
    const shown = JSON.stringify([current.id, pair]);
    if (shown !== this.#shown && pair.before) this.#compare.show(pair);
    this.#shown = shown;
    this.#find(".caption").textContent = caption(current);
    this.#drawResult(current);
    this.#strip.draw(this.#pictures, current);
  }

  #drawResult(current) {
    const isDone = Boolean(current.job);
    const download = this.#find(".download");
    download.hidden = !isDone;
    if (isDone) {
      download.href = service.resultAddress(current.job.id);
      download.download = current.job.result.name;
      download.textContent = `Download ${current.job.result.name}`;
    }
    this.#find(".zip").hidden = this.#pictures.filter((picture) => picture.job).length < 2;
    const notes = isDone ? current.job.result.notes : [];
    const list = this.#find(".notes");
    list.hidden = notes.length === 0;
    list.replaceChildren(...notes.map((note) => element("li", { textContent: sentence(note) })));
    if (this.#batch.length === 0) {
      const isBeside = current.error?.field && document.getElementById(`error-${current.error.field}`);
      if (current.state === "failed" && !isBeside) this.#problem(sentence(current.error.message));
      else if (current.state !== "failed") this.#problem("");
    }
  }

  #drawProgress() {
    const batch = this.#batch;
    this.#find(".progress").hidden = batch.length === 0;
    if (batch.length === 0) {
      this.#find(".stage").textContent = this.#find(".left").textContent = "";
      return;
    }
    const active = batch.find((picture) => picture.state === "working") ?? batch[0];
    const ended = batch.filter((picture) => !["working", "waiting"].includes(picture.state));
    const share = batch.reduce((sum, picture) => sum + (ended.includes(picture) ? 1 : picture.share), 0) / batch.length;
    let words = active.doing || "Waiting";
    if (active.tiles) words += `, ${active.part} ${active.tiles[0]} of ${active.tiles[1]}`;
    if (batch.length > 1) words = `Picture ${Math.min(ended.length + 1, batch.length)} of ${batch.length}: ${words.toLowerCase()}`;
    const elapsed = (performance.now() - this.#batchStarted) / 1000;
    const left = batch.length === 1 ? active.secondsLeft : share > 0.05 ? (elapsed * (1 - share)) / share : null;
    this.#find(".stage").textContent = words;
    this.#find(".left").textContent = left === null ? "" : left < 1 ? "less than a second left" : `about ${duration(left)} left`;
    this.#find(".meter").setAttribute("aria-valuenow", Math.round(share * 100));
    this.#find(".meter div").style.width = `${share * 100}%`;
  }

  #problem(message) {
    const text = this.#find(".problem");
    text.hidden = !message;
    if (text.textContent !== message) text.textContent = message;
  }

  // ------------------------------------------------------------------------------------------ out

  #fetchZip() {
    const link = element("a", {
      href: service.zipAddress(this.#pictures.filter((picture) => picture.job).map((picture) => picture.job.id)),
      download: "restored.zip",
    });
    document.body.append(link);
    link.click();
    link.remove();
  }

  async #copy(button) {
    const code = this.#find(".command code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      // Browsers give the clipboard to secure addresses only; the text is marked, so that one key copies it.
      getSelection().selectAllChildren(code);
      button.textContent = "Marked: press Ctrl+C";
    }
    setTimeout(() => (button.textContent = "Copy"), COPIED_MS);
  }
}

const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const formFields = (options) => Object.fromEntries(Object.entries(options).map(([name, value]) => [name, String(value)]));
const element = (name, properties = {}) => Object.assign(document.createElement(name), properties);
