// What is seen of the pictures: the comparison, messages, results, and the buttons that have a use just now.

import { element } from "./elements.js";
import { History } from "./history.js";
import * as service from "./service.js";
import { Strip } from "./strip.js";
import { t } from "./texts.js";
import { caption, planned, remarked, said } from "./words.js";

export class View {
  #parts;
  #history;
  #strip;
  #shown = ""; // what the comparison shows now
  #isProblemOfPicture = false;

  /**
   * @param {object} parts compare, controls, player, region and run
   * @param {object} does changed(), pick(picture), remove(picture)
   */
  constructor(parts, does) {
    this.#parts = parts;
    this.#history = new History(this.#find(".history"), does.changed);
    this.#strip = new Strip(this.#find(".strip"), does);
  }

  #find = (selector) => document.querySelector(selector);

  /** Show everything anew the next time. */
  forget() {
    this.#shown = "";
  }

  /**
   * @param {object} state
   * @param {Picture[]} state.pictures
   * @param {Picture|null} state.current the one that is shown
   * @param {object|null} state.plan what the settings mean; null while they are none
   * @param {boolean} state.isDone whether the result that is shown is one of the present settings
   * @param {boolean} state.canPreview
   */
  draw({ pictures, current, plan, isDone, canPreview }) {
    const { run, compare, player } = this.#parts;
    this.#find(".empty").hidden = Boolean(current);
    this.#find(".view").hidden = !current;
    const isUsable = pictures.some((picture) => picture.isUsable);
    document.body.dataset.phase = run.isBusy ? "busy" : isDone ? "done" : "ready";
    this.#find("#run").disabled = run.isBusy || !pictures.some((picture) => picture.isUsable && picture.isKnown);
    this.#find(".plan").textContent = plan && isUsable ? planned(plan.results) : "";
    const command = isDone ? current.result.command : plan?.command;
    this.#find(".settings summary").textContent = t(isDone ? "command.used" : "command.title");
    if (command) this.#find(".command code").textContent = command;
    run.draw();
    if (!current) {
      player.stop();
      this.forget();
      return;
    }
    const pair = current.pair;
    const shown = JSON.stringify([current.id, pair]);
    if (shown !== this.#shown) {
      compare.show(pair);
      player.show(current.frames);
    }
    this.#shown = shown;
    this.#find(".caption").textContent = caption(current);
    this.#find(".about").hidden = !current.isUsable || current.isVideo;
    this.#find(".unplayable").hidden = !current.result?.isUnplayable;
    this.#find(".preview").disabled = !canPreview;
    this.#find(".zip").hidden = pictures.filter((picture) => picture.result).length < 2;
    this.#drawResult(current.result, isDone);
    this.#find(".export").hidden = !pair.after || !pair.before;
    this.#drawMessages(current, canPreview);
    this.#history.draw(current);
    this.#strip.draw(pictures, current);
  }

  #drawResult(result, isDone) {
    const download = this.#find(".download");
    download.hidden = !result;
    if (result) {
      download.href = service.resultAddress(result.job.id);
      download.download = result.job.result.name;
      download.textContent = t("results.download", { name: result.job.result.name });
    }
    this.#find(".old").hidden = !result || isDone || this.#parts.run.isBusy;
    this.#find(".old").textContent = t("results.old");
    const notes = result ? result.job.result.notes : [];
    this.#find(".notes").hidden = notes.length === 0;
    this.#find(".notes").replaceChildren(...notes.map(remarked).map(({ text, lang }) => element("li", { lang, textContent: text })));
  }

  #drawMessages(current, canPreview) {
    const { run, region, controls } = this.#parts;
    const isBroken = current.state === "broken";
    this.#find(".broken").hidden = !isBroken;
    this.#find(".broken").textContent = isBroken ? said(current.error) : "";
    if (!region.isOn) this.hint(canPreview && !current.result ? t("region.hint") : "");
    const isFailed = !run.isBusy && current.state === "failed";
    if (isFailed && !controls.isBlamed(current.error.field)) {
      this.problem(said(current.error));
      this.#isProblemOfPicture = true;
    } else if (this.#isProblemOfPicture) {
      this.problem("");
    }
  }

  /** Words at the bottom of the frame; none for nothing. */
  hint(words) {
    const hint = this.#find(".hint");
    [hint.hidden, hint.textContent] = [!words, words];
  }

  /** What went wrong; empty for nothing. */
  problem(message) {
    const text = this.#find(".problem");
    text.hidden = !message;
    if (text.textContent !== message) text.textContent = message;
    this.#isProblemOfPicture = false;
  }
}
