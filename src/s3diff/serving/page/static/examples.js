// The pictures that come with the page, one click each.

import { button, element } from "./elements.js";
import * as service from "./service.js";
import { t } from "./texts.js";

/** Show them; `does` has chosen(file) and failed(error). Returns a function that names them, in another language as well. */
export function showExamples(root, names, does) {
  const words = names.map((name) => {
    const label = element("span");
    const example = button({ className: "example" }, async () => {
      example.disabled = true;
      try {
        await does.chosen(await service.example(name));
      } catch (error) {
        does.failed(error);
      }
      example.disabled = false;
    });
    example.append(element("img", { src: service.exampleAddress(name), alt: "" }), label);
    root.querySelector("ul").append(element("li", {}, example));
    return [label, name];
  });
  root.hidden = names.length === 0;
  return () => words.forEach(([label, name]) => (label.textContent = t(`example.${name.split(".")[0]}`)));
}
