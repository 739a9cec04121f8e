// Results that come back after a reload: their names are kept by the browser's tab, and go with it.

import { Picture } from "./pictures.js";
import * as service from "./service.js";

const STORED = "s3diff-results";
const BEFORE_PX = 900; // shorter side of the picture before, as it is kept

/** Note the results of these pictures. */
export function keepResults(pictures) {
  const kept = pictures.filter((picture) => picture.results.length).map((picture) => {
    picture.before ??= picture.image && !picture.isVideo ? picture.drawn(BEFORE_PX) : null; // a video is too large to keep
    const { name, width, height, frames, found, thumbnail, before } = picture;
    const results = picture.results.map((each) => ({ ...each, isShown: each === picture.result }));
    return { name, width, height, frames, found, thumbnail, before, results };
  });
  try {
    sessionStorage.setItem(STORED, JSON.stringify(kept));
  } catch {
    // No room for the pictures before; the results themselves are what counts.
    sessionStorage.setItem(STORED, JSON.stringify(kept.map((each) => ({ ...each, before: null, thumbnail: null }))));
  }
}

/** End the work of a page that is closed; ask before results are left that nobody has downloaded. */
export function setUpLeaving(pictures, run) {
  window.addEventListener("pagehide", () => run.abandon());
  window.addEventListener("beforeunload", (event) => {
    const results = pictures().flatMap((picture) => picture.results);
    if (run.isBusy || results.some((each) => !each.isSaved)) event.preventDefault();
  });
}

/** The pictures whose results the service still holds. */
export async function keptPictures(told) {
  const kept = JSON.parse(sessionStorage.getItem(STORED) ?? "[]");
  const pictures = await Promise.all(kept.map(async ({ results, before, ...facts }) => {
    const picture = Object.assign(new Picture(null, facts.name, told), facts, { state: "done", address: before, before });
    const held = await Promise.all(results.map(({ job }) => service.jobStatus(job.id, 0).then(() => true, () => false)));
    picture.results = results.filter((_, index) => held[index]);
    picture.result = picture.results.find((each) => each.isShown) ?? picture.results.at(-1);
    return picture;
  }));
  return pictures.filter((picture) => picture.result);
}
