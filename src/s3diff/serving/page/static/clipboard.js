// Copy a text with one button.

import { t } from "./texts.js";

const COPIED_MS = 1600;

/** Copy what an element says; `copy` is the button that says whether it worked. */
export async function copyText(copy, from) {
  try {
    await navigator.clipboard.writeText(from.textContent);
    copy.textContent = t("command.copied");
  } catch {
    // Browsers give the clipboard to secure addresses only; the text is marked, so that one key copies it.
    getSelection().selectAllChildren(from);
    copy.textContent = t("command.marked");
  }
  setTimeout(() => (copy.textContent = t("command.copy")), COPIED_MS);
}
