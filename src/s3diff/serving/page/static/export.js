// The comparison as one picture: before on the left, after on the right.

import { sidesOf } from "./compare.js";
import { element } from "./elements.js";

const LARGEST_PX = 4096; // side of what is written
const QUALITY = 0.92;

/**
 * Download both pictures of a comparison, or the frames that are shown of two videos, in one JPEG: cut at the middle, or
 * side by side where they are shown so.
 */
export async function exportPair(root, images, picture) {
  await Promise.all(images.map((image) => image.decode?.()));
  const { width, height, fit } = picture.pair;
  const isSide = root.querySelector(".frame").classList.contains("is-side");
  const times = isSide ? 2 : 1;
  const factor = Math.min(1, LARGEST_PX / Math.max(width * times, height));
  const [across, down] = [Math.round(width * factor), Math.round(height * factor)];
  const canvas = element("canvas", { width: across * times, height: down });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // behind transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  const half = isSide ? across : Math.round(across / 2);
  for (const [index, image] of images.entries()) {
    context.save();
    context.beginPath();
    context.rect(index * half, 0, canvas.width - half, down);
    context.clip();
    draw(context, image, index && isSide ? across : 0, across, down, index === 0 && fit === "cover");
    context.restore();
  }
  if (!isSide) {
    context.fillRect(half - 1, 0, 2, down);
  }
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  const address = URL.createObjectURL(blob);
  const stem = picture.name.replace(/\.[^.]*$/, "");
  element("a", { href: address, download: `${stem}-before-after.jpg` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function draw(context, image, left, width, height, covers) {
  const [across, down] = sidesOf(image);
  const scale = covers ? Math.max(width / across, height / down) : 0;
  const part = covers ? [width / scale, height / scale] : [across, down];
  context.drawImage(image, (across - part[0]) / 2, (down - part[1]) / 2, ...part, left, 0, width, height);
}
