// Sentences about pictures, times and degrees.

import { currentLanguage, hasText, number, plain, t, translated } from "./texts.js";

export function stateOf(picture) {
  if (picture.state === "working") return picture.share ? `${Math.round(picture.share * 100)} %` : picture.doing;
  return picture.state === "ready" ? "" : t(`state.${picture.state}`);
}

const pixels = (width, height) => `${width} \u00d7 ${height} px`;

/** The picture, and the result that is shown. */
export function caption(picture) {
  const size = picture.width ? pixels(picture.width, picture.height) : "";
  if (!picture.result) return [picture.name, size].filter(Boolean).join(", ");
  const { width, height, blur, noise, seconds } = picture.result.job.result;
  const values = { name: picture.name, before: size, after: pixels(width, height), blur: number(blur), noise: number(noise), seconds: number(seconds, 1) };
  return t(size ? "caption.result" : "caption.alone", values);
}

export function duration(seconds) {
  const whole = Math.ceil(seconds);
  if (whole < 175) return t("time.seconds", { count: whole < 90 ? whole : 10 * Math.round(whole / 10) }); // minutes are too coarse
  return whole < 5400 ? t("time.minutes", { count: Math.round(whole / 60) }) : t("time.hours", { count: Math.round(whole / 3600) });
}

/** What the results will be: their size, and about how long they take. */
export function planned(results) {
  const known = results.filter(Boolean);
  if (known.length === 0) return "";
  const seconds = known.every((each) => each.seconds !== null) ? known.reduce((sum, each) => sum + each.seconds, 0) : null;
  const time = seconds === null ? "" : t("plan.time", { time: duration(seconds) });
  if (known.length > 1) return [t("plan.several", { count: known.length }), time].filter(Boolean).join(", ");
  const { width, height } = known[0];
  const megapixels = (width * height) / 1e6;
  const size = t("plan.size", { size: pixels(width, height), megapixels: plain(megapixels, megapixels < 1 ? 2 : 1) });
  return [size, time].filter(Boolean).join(", ");
}

/** A degree in words: where the dial stands on the way from sharp to blurred, from clean to noisy. */
export function degreeInWords(field, degree) {
  const step = degree < 0.1 ? 0 : degree < 0.3 ? 1 : degree < 0.6 ? 2 : 3;
  return t(`degree.${field}.${step}`);
}

/**
 * What the service refused, in the page's language where that has a text for the error's code; else in its own words.
 * @param {ServiceError} error
 * @param {object|null} allowed low, high and isOpen of the option at fault
 */
export function said({ message, code, field, largest, isTranslated }, allowed = null) {
  const words = sentence(message);
  if (isTranslated || !hasText(`service.${code}`)) return words;
  if (largest) {
    const name = field === "size" ? "service.option.largest.size" : "service.option.largest";
    return t(name, { largest: plain(largest) });
  }
  if (code !== "option" || !allowed) return t(`service.${code}`, { words });
  const name = allowed.isOpen ? "service.option.above" : "service.option.between";
  return t(name, { low: plain(allowed.low), high: plain(allowed.high) });
}

/** The service's words as a sentence; a file's name at the beginning stays as it is. */
export const sentence = (text) => {
  if (!text) return "";
  const start = /^[a-z]+( |$)/.test(text) ? text[0].toUpperCase() : text[0];
  return start + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
};

/** `{parts}` of a remark in the page's language, null where one has no text; a single word is the name of a field. */
function ownParts(key, value) {
  if (key !== "parts") return value;
  const own = value.split(/, (?![^(]*\))/).map((part) => translated("part.", part, ownParts) ?? (/\s/.test(part) ? null : part));
  return own.includes(null) ? null : own.join(", ");
}

/** A remark on a result: its text, and the language that it is in; never half of it in another. */
export function remarked(note) {
  const text = translated("note.", note, ownParts);
  return text ? { text, lang: currentLanguage() } : { text: sentence(note), lang: "en" };
}
