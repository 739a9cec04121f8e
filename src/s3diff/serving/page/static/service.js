// The service's HTTP interface, as the page uses it. Addresses are relative, so that a proxy may put the page anywhere.

import { t } from "./texts.js";

const API = "api/v1";

/** The service refused or could not be reached. */
export class ServiceError extends Error {
  /**
   * @param {string} message in plain words
   * @param {object} about
   * @param {number} [about.status] the HTTP status; 0 when there was no answer
   * @param {string|null} [about.code] the service's word for the kind of error
   * @param {string|null} [about.field] the option that caused it
   * @param {number|null} [about.largest] the largest value that the option may have here, where it was larger
   * @param {number} [about.retryAfter] seconds to wait, where waiting helps
   * @param {boolean} [about.isTranslated] whether the message is in the page's language already
   */
  constructor(message, { status = 0, code = null, field = null, largest = null, retryAfter = 0, isTranslated = false } = {}) {
    super(message);
    Object.assign(this, { status, code, field, largest, retryAfter, isTranslated });
  }
}

const address = (path) => new URL(path, document.baseURI).href;

function refusal(status, text, retryAfter) {
  let told = {};
  try {
    told = JSON.parse(text);
  } catch {
    // A proxy's own page: its status has to do.
  }
  const error = told.error ?? told;
  const detail = error.message ?? error.detail ?? told.detail;
  const message = typeof detail === "string" ? detail : t("error.status", { status });
  if (status === 401) location.reload(); // the session is over: the server shows where to sign in
  const { code = null, field = null, largest = null } = error;
  return new ServiceError(message, { status, code, field, largest, retryAfter: Number(retryAfter) || 0 });
}

async function asked(path, { method = "GET", accept = "application/json", body, signal, keepalive } = {}) {
  let response;
  try {
    const headers = { Accept: accept };
    if (typeof body === "string") headers["Content-Type"] = "application/json";
    response = await fetch(address(path), { method, body, signal, keepalive, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(t("error.unreachable"));
  }
  if (!response.ok) throw refusal(response.status, await response.text(), response.headers.get("Retry-After"));
  return response;
}

function form(file, fields) {
  const body = new FormData();
  body.append("picture", file, file.name);
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  return body;
}

/**
 * Send a picture; resolves to its job. `sent` is told the share of the bytes that is on its way.
 *
 * An abort ends what is still being sent. Where all may have arrived already, the answer is waited for instead: only who
 * knows the job can end it.
 */
export function submit(file, fields, { signal, sent }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells nothing about an upload's progress
    let [loaded, step, total] = [0, 0, Infinity];
    const stop = () => {
      // Progress is told in steps; a body that lacks several of them cannot be whole on the other side.
      if (signal.aborted && loaded > 0 && total - loaded > 4 * step) request.abort();
    };
    request.open("POST", address(`${API}/jobs`));
    request.setRequestHeader("Accept", "application/json");
    request.upload.onprogress = (event) => {
      [step, loaded, total] = [event.loaded - loaded, event.loaded, event.total];
      sent(loaded / total);
      stop();
    };
    request.onload = () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(refusal(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => reject(new ServiceError(t("error.unreachable")));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", stop);
    request.send(form(file, fields));
  });
}

export const jobStatus = async (id, wait, signal) =>
  (await asked(`${API}/jobs/${encodeURIComponent(id)}?wait=${wait}`, { signal })).json();
/** End a job, or forget one that has ended, with its files. */
export const cancelJob = (id, { keepalive = false } = {}) =>
  asked(`${API}/jobs/${encodeURIComponent(id)}`, { method: "DELETE", keepalive });
export const resultAddress = (id) => address(`${API}/jobs/${encodeURIComponent(id)}/result`);
export const previewAddress = (id) => address(`page/jobs/${encodeURIComponent(id)}/preview`);
export const zipAddress = (ids) => address(`page/results.zip?${ids.map((id) => `job=${encodeURIComponent(id)}`).join("&")}`);

/** Restore a small picture and get it back in one answer; who aborts ends the work as well. */
export const restored = async (file, fields, signal) =>
  (await asked(`${API}/restore`, { method: "POST", accept: file.type, body: form(file, fields), signal })).blob();

/** What a file says of its making, and whether its signature holds. */
export const inspect = async (file) => (await asked(`${API}/inspect`, { method: "POST", body: form(file, {}) })).json();

/** How blurred and noisy the estimator finds a picture, and its size. */
export const estimate = async (file, model, signal) =>
  (await asked(`${API}/estimate`, { method: "POST", body: form(file, { model }), signal })).json();

/** A picture that no browser shows, as one that every browser does. */
export const preview = async (file) => (await asked("page/preview", { method: "POST", body: form(file, {}) })).blob();

/** A piece of such a picture with its own pixels; `box` is left, top, right, bottom. */
export const piece = async (file, box) =>
  (await asked("page/preview", { method: "POST", body: form(file, { box: box.join(",") }) })).blob();

/** The settings as a command, and the results' sizes and seconds; refused where they are none, with the option at fault. */
export const plan = async (settings) =>
  (await asked("page/plan", { method: "POST", body: JSON.stringify(settings) })).json();

/** A job's result. */
export const result = async (id, signal) => (await asked(`${API}/jobs/${encodeURIComponent(id)}/result`, { signal })).blob();

export async function example(name) {
  const blob = await (await asked(`page/examples/${encodeURIComponent(name)}`)).blob();
  return new File([blob], name, { type: blob.type });
}

export const exampleAddress = (name) => address(`page/examples/${encodeURIComponent(name)}`);
