// The controls' values as the service's options, and the dial between estimate and hand.

import { degreeInWords } from "./words.js";
import { number, t } from "./texts.js";

const DIAL = ["blur", "noise"];

/** The dial follows the estimate until somebody turns it. */
export class Settings {
  #controls;
  // field: {value, moved}; moved: by how much from the estimate, null while there was none; value: null where only that
  // is known
  #byHand = {};

  constructor(controls) {
    this.#controls = controls;
  }

  get isByHand() {
    return Object.keys(this.#byHand).length > 0;
  }

  /** Somebody turned the dial; `found` is what the estimator found for the picture that is shown. */
  turn(field, value, found) {
    if (value === null) delete this.#byHand[field];
    else this.#byHand[field] = { value, moved: found ? value - found[field] : null };
  }

  /** A preset gives a degree, or a text with a sign that is added to each estimate. */
  preset(field, value) {
    if (typeof value === "string") this.#byHand[field] = { value: null, moved: Number(value) };
    else this.turn(field, value, null);
  }

  follow() {
    this.#byHand = {};
  }

  /** Move the dial to where it stands for a picture. */
  show(found, isSeveral) {
    for (const field of DIAL) {
      const value = this.degree(field, found, isSeveral);
      this.#controls.set(field, value === null ? null : round(value));
    }
  }

  /** The degree that a picture is restored with; null while nobody knows. */
  degree(field, found, isSeveral) {
    const hand = this.#byHand[field];
    if (!hand) return found?.[field] ?? null;
    const isMoved = hand.value === null || isSeveral;
    if (isMoved && found && hand.moved !== null) return Math.min(1, Math.max(0, found[field] + hand.moved));
    return hand.value;
  }

  /** The degrees that a picture is restored with, as texts; those that nobody knows are left out. */
  degrees(found, isSeveral) {
    const known = DIAL.map((field) => [field, this.degree(field, found, isSeveral)]).filter(([, degree]) => degree !== null);
    return Object.fromEntries(known.map(([field, degree]) => [field, String(degree)]));
  }

  /** Say below the dial what it does. */
  tell(root, found, isSeveral) {
    root.querySelector("p").textContent = this.#words(found, isSeveral);
    root.querySelector(".follow").disabled = !this.isByHand;
  }

  #words(found, isSeveral) {
    if (!this.isByHand) {
      if (!found) return t("dial.waits");
      const looks = DIAL.map((field) => degreeInWords(field, found[field])).join(", ");
      const values = { looks, blur: number(found.blur), noise: number(found.noise) };
      return t(isSeveral ? "dial.looksEach" : "dial.looks", values);
    }
    const moved = this.#moved();
    const isPreset = Object.values(this.#byHand).every((hand) => hand.value === null);
    if ((isPreset || isSeveral) && Object.values(moved).every((value) => typeof value === "string")) {
      const all = Object.entries(moved).map(([field, value]) => `${t(`control.${field}`)} ${value}`);
      return t(isSeveral ? "dial.moved" : "dial.movedOne", { moved: all.join(", ") || t("dial.byNothing") });
    }
    return found ? t("dial.byHandFound", { blur: number(found.blur), noise: number(found.noise) }) : t("dial.byHand");
  }

  #moved() {
    const moved = {};
    for (const [field, hand] of Object.entries(this.#byHand)) {
      if (hand.moved === null) moved[field] = hand.value;
      else if (Math.abs(hand.moved) >= 0.005) moved[field] = `${hand.moved < 0 ? "-" : "+"}${Math.abs(hand.moved).toFixed(2)}`;
    }
    return moved;
  }

  /**
   * Options that differ from their defaults, by field.
   * @throws {MissingValue} the chosen way to enlarge has no value
   */
  options(isSeveral) {
    const options = {};
    const chosen = this.#controls.value("size_by");
    for (const { field, default: standard } of this.#controls.all) {
      if (DIAL.includes(field) || !this.#controls.isUsed(field)) continue;
      const value = this.#controls.value(field);
      const isEmpty = value === null || value === "";
      if (isEmpty && field === chosen) throw new MissingValue(field, t("size.missing"));
      if (!isEmpty && value !== standard) options[field] = value;
    }
    const moved = this.#moved();
    for (const [field, hand] of Object.entries(this.#byHand)) {
      if (!isSeveral && hand.value !== null) options[field] = hand.value;
      else if (moved[field] !== undefined) options[field] = moved[field];
    }
    return options;
  }

  /** How the input fills the result's proportions, as CSS says it. */
  get fit() {
    return this.#controls.isUsed("size_mode") && this.#controls.value("size_mode") === "fill" ? "cover" : "fill";
  }
}

/** The chosen way to enlarge has no value yet. */
export class MissingValue extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

const round = (value) => Math.round(value * 100) / 100;
