// A round magnifier under the pointer: the picture before on its left half, the result on its right.

import { sidesOf } from "./compare.js";

const TIMES = 3; // screen pixels per pixel of the result
const SIDE_PX = 240; // of the canvas, in CSS pixels

/** Set up the loupe of a comparison; returns a function that turns it on or off. */
export function setUpLoupe(root, compare) {
  const frame = root.querySelector(".frame");
  const canvas = root.querySelector(".loupe");
  const button = root.querySelector(".magnify");
  let isOn = false;
  const turn = () => {
    isOn = !isOn;
    button.setAttribute("aria-pressed", String(isOn));
    frame.classList.toggle("has-loupe", isOn);
    if (!isOn) canvas.hidden = true;
  };
  const move = (event) => {
    if (!isOn) return;
    const box = frame.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const { images, point, isPair, width } = compare.under(x, y);
    canvas.hidden = point.some((share) => share < 0 || share > 1);
    canvas.style.transform = `translate(${x - SIDE_PX / 2}px, ${y - SIDE_PX / 2}px)`;
    draw(canvas, isPair ? images : [images[0], images[0]], point, width);
  };
  button.addEventListener("click", turn);
  frame.addEventListener("pointermove", move);
  frame.addEventListener("pointerleave", () => (canvas.hidden = true));
  return turn;
}

function draw(canvas, images, [across, down], width) {
  const scale = devicePixelRatio;
  canvas.width = canvas.height = SIDE_PX * scale;
  const context = canvas.getContext("2d");
  const middle = canvas.width / 2;
  for (const [index, image] of images.entries()) {
    const [ownWidth, ownHeight] = sidesOf(image);
    if (!ownWidth) continue;
    const times = (TIMES * width) / ownWidth; // canvas pixels per pixel of this image
    const part = canvas.width / times;
    context.save();
    context.beginPath();
    context.rect(index * middle, 0, middle, canvas.height);
    context.clip();
    context.imageSmoothingEnabled = index === 0; // the result's own pixels are to be seen
    context.drawImage(image, across * ownWidth - part / 2, down * ownHeight - part / 2, part, part, 0, 0, canvas.width, canvas.height);
    context.restore();
  }
  if (images[0] !== images[1]) {
    context.fillStyle = "#fff";
    context.fillRect(middle - scale / 2, 0, scale, canvas.height);
  }
}
