// Keys that work anywhere on the page but where somebody writes, and the list of them.

import { element } from "./elements.js";
import { t } from "./texts.js";

/** `?` shows the list; `does` holds the comparison, the player, functions for loupe, full screen and the neighbour, and presses buttons. */
export function setUpKeys(dialog, help, does) {
  const { compare } = does;
  const keys = {
    "?": ["help", () => list()],
    r: ["restore", () => does.press("#run")],
    d: ["download", () => does.press(".download:not([hidden])")],
    p: ["preview", () => does.press(".preview")],
    s: ["side", () => compare.otherMode()],
    b: ["hold", () => compare.hold(true)],
    l: ["loupe", () => does.loupe()],
    f: ["fullScreen", () => does.fullScreen()],
    "+": ["zoomIn", () => compare.zoom("in")],
    "-": ["zoomOut", () => compare.zoom("out")],
    0: ["fit", () => compare.zoom("fit")],
    1: ["real", () => compare.zoom("full")],
    k: ["play", () => does.player.toggle()],
    ",": ["frameBack", () => does.player.step(-1)],
    ".": ["frameForth", () => does.player.step(1)],
    "[": ["previous", () => does.neighbour(-1)],
    "]": ["next", () => does.neighbour(1)],
  };
  const list = () => {
    const rows = Object.entries(keys).map(([key, [name]]) => [element("dt", {}, element("kbd", { textContent: key })), element("dd", { textContent: t(`keys.${name}`) })]);
    rows.push([element("dt", {}, element("kbd", { textContent: "\u2190 \u2191 \u2192 \u2193" })), element("dd", { textContent: t("keys.arrows") })]);
    dialog.querySelector("dl").replaceChildren(...rows.flat());
    dialog.showModal();
  };
  help.addEventListener("click", list);
  const isWriting = (target) => target.matches?.("input:not([type=range], [type=radio], [type=checkbox]), select, textarea");
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || isWriting(event.target)) return;
    const key = keys[event.key === "=" ? "+" : event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!key) return;
    event.preventDefault();
    if (!event.repeat || "+-,.".includes(event.key)) key[1]();
  });
  document.addEventListener("keyup", (event) => event.key.toLowerCase() === "b" && compare.hold(false));
}
