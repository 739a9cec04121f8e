import { load, restore } from "./restore.js";

const [input, bar, status, canvas, link] = ["input", "progress", "[role=status]", "canvas", "a"].map((name) =>
  document.querySelector(name),
);
const session = load("compact.onnx");
session.catch((error) => (status.textContent = `compact.onnx could not be loaded: ${error.message}`));

/** Decode a file to opaque pixels. */
async function read(file) {
  const bitmap = await createImageBitmap(file);
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

input.addEventListener("change", async () => {
  const [file] = input.files;
  if (!file) return;
  input.disabled = true;
  [bar.hidden, bar.value, canvas.hidden, link.hidden] = [false, 0, true, true];
  status.textContent = "Restoring …";
  try {
    const { image, degrees } = await restore(await session, await read(file), (done, all) => (bar.value = done / all));
    [canvas.width, canvas.height] = [image.width, image.height];
    canvas.getContext("2d").putImageData(image, 0, 0);
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(await new Promise((resolve) => canvas.toBlob(resolve)));
    [canvas.hidden, link.hidden] = [false, false];
    const [blur, noise] = degrees.map((degree) => degree.toFixed(2));
    status.textContent = `${image.width} x ${image.height} px; estimated blur ${blur}, noise ${noise}`;
  } catch (error) {
    status.textContent = `${file.name} could not be restored: ${error.message}`;
  } finally {
    [input.disabled, bar.hidden] = [false, true];
  }
});
