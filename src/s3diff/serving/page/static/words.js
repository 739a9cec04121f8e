// What the page says.

export function stateOf(picture) {
  if (picture.state === "working") return picture.share ? `${Math.round(picture.share * 100)} %` : picture.doing;
  return { ready: "", waiting: "Waiting", done: "Restored", failed: "Failed", cancelled: "Cancelled" }[picture.state];
}

export function caption(picture) {
  const size = picture.width ? `${picture.width} x ${picture.height} px` : "";
  if (!picture.job) return [picture.name, size].filter(Boolean).join(", ");
  const { width, height, blur, noise, seconds } = picture.job.result;
  const degrees = `blur ${blur.toFixed(2)}, noise ${noise.toFixed(2)}`;
  return `${picture.name}: ${size ? `${size} to ` : ""}${width} x ${height} px, ${degrees}, ${seconds.toFixed(1)} s`;
}

export function duration(seconds) {
  const whole = Math.ceil(seconds);
  if (whole < 90) return `${whole} s`;
  return whole < 5400 ? `${Math.round(whole / 60)} minutes` : `${Math.round(whole / 3600)} hours`;
}

/** The service's words as a sentence; a file's name at the beginning stays as it is. */
export const sentence = (text) => {
  if (!text) return "";
  const start = /^[a-z]+( |$)/.test(text) ? text[0].toUpperCase() : text[0];
  return start + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
};
