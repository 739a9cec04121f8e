// What a picture's file says of its making, asked of the service when somebody wants to know.

import { element } from "./elements.js";
import * as service from "./service.js";
import { number, t } from "./texts.js";

/**
 * Have `.about` open the list.
 * @param {Element} opener
 * @param {HTMLDialogElement} dialog
 * @param {object} does
 * @param {Function} does.picture gives the picture that is shown
 * @param {Function} does.failed called with the error where the file cannot be read
 */
export function setUpOrigin(opener, dialog, { picture, failed }) {
  opener.addEventListener("click", async () => {
    const shown = picture();
    opener.disabled = true;
    try {
      shown.origin ??= await service.inspect(shown.file);
      dialog.querySelector(".name").textContent = shown.name;
      const rows = facts(shown.origin).map(([name, text]) => [element("dt", { textContent: t(name) }), element("dd", { textContent: text })]);
      dialog.querySelector("dl").replaceChildren(...rows.flat());
      dialog.querySelector(".nothing").hidden = rows.length > 0;
      dialog.showModal();
    } catch (error) {
      failed(error);
    } finally {
      opener.disabled = false;
    }
  });
}

function facts({ digital_source_type: source, creator_tool: tool, restorations, credentials, unchecked }) {
  const rows = [];
  if (source) rows.push(["origin.source", source]);
  if (tool) rows.push(["origin.tool", tool]);
  for (const made of restorations) {
    rows.push(["origin.restored", t("origin.with", made)]);
    const degrees = { blur: number(made.blur), noise: number(made.noise) };
    rows.push(["origin.degrees", t("origin.both", { ...degrees, foundBlur: number(made.estimated_blur), foundNoise: number(made.estimated_noise) })]);
    const { scale, size, strength } = made.options;
    rows.push(["control.scale", size ? size.join(" \u00d7 ") : String(scale)], ["control.strength", number(strength)]);
  }
  if (credentials) rows.push(["origin.signature", t(credentials.holds ? "origin.holds" : "origin.broken", { signer: credentials.signer })]);
  else if (unchecked) rows.push(["origin.signature", t("origin.unchecked")]);
  return rows;
}
