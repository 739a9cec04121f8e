// Make elements of the document.

/** An element with properties, holding `children`. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** A button that calls `pressed`. */
export function button(properties, pressed) {
  const made = element("button", { type: "button", ...properties });
  made.addEventListener("click", pressed);
  return made;
}

/** Scroll to an element that is out of sight: on a phone the settings may have pushed the picture away. */
export function bringIntoView(element) {
  const { top, bottom } = element.getBoundingClientRect();
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (bottom <= 0 || top >= innerHeight) element.scrollIntoView({ block: "start", behavior: isCalm ? "auto" : "smooth" });
}
