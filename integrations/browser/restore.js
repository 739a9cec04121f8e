// S3Diff in a browser: a picture four times as large, by the graph of `s3diff export` and onnxruntime-web.

import * as ort from "./ort.wasm.min.mjs";

export const SCALE = 4;
const TILE_PX = 192; // of the input; a larger picture is restored in tiles, so that memory stays small
const HALO_PX = 24; // of the input: what lies further away changes a pixel by less than a rounding

ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;

/** Load a graph; `address` of the .onnx file. */
export const load = (address) => ort.InferenceSession.create(address);

/**
 * Restore a picture.
 * @param {ort.InferenceSession} session from load
 * @param {ImageData} picture opaque, sRGB
 * @param {(done: number, all: number) => void} [progress] called after every tile
 * @returns {Promise<{image: ImageData, degrees: number[]}>} degrees: of blur and noise, as they were estimated
 */
export async function restore(session, picture, progress = () => {}) {
  const { width, height } = picture;
  const tiles = spans(height).flatMap((rows) => spans(width).map((columns) => ({ rows, columns })));
  // One pair of degrees for all tiles, or their strengths would differ: the estimate of the picture's middle.
  let degrees = new Float32Array([-1, -1]);
  if (tiles.length > 1) degrees = (await run(session, picture, middle(height), middle(width), degrees)).degrees;
  const image = new ImageData(SCALE * width, SCALE * height);
  for (const [index, { rows, columns }] of tiles.entries()) {
    const made = await run(session, picture, rows.read, columns.read, degrees);
    place(made.pixels, rows, columns, image);
    if (tiles.length === 1) degrees = made.degrees;
    progress(index + 1, tiles.length);
    await new Promise((resolve) => setTimeout(resolve)); // the page may draw
  }
  return { image, degrees: [...degrees] };
}

/** Equal parts of an axis: what each reads and what of it is kept, [start, stop]. */
function spans(length) {
  if (length <= TILE_PX) return [{ read: [0, length], kept: [0, length] }];
  const kept = Math.ceil(length / Math.ceil(length / (TILE_PX - 2 * HALO_PX)));
  return Array.from({ length: Math.ceil(length / kept) }, (_, index) => {
    const [start, stop] = [index * kept, Math.min(length, (index + 1) * kept)];
    return { read: [Math.max(0, start - HALO_PX), Math.min(length, stop + HALO_PX)], kept: [start, stop] };
  });
}

function middle(length) {
  const start = Math.max(0, Math.floor((length - TILE_PX) / 2));
  return [start, Math.min(length, start + TILE_PX)];
}

/** Run the graph on a part of the picture: channels first, in [0, 1]. */
async function run(session, { data, width }, [top, bottom], [left, right], degrees) {
  const [rows, columns] = [bottom - top, right - left];
  const values = new Float32Array(3 * rows * columns);
  for (let row = 0, at = 0; row < rows; row++)
    for (let column = 0; column < columns; column++, at++)
      for (let channel = 0; channel < 3; channel++)
        values[channel * rows * columns + at] = data[4 * ((top + row) * width + left + column) + channel] / 255;
  const outputs = await session.run({
    low_quality: new ort.Tensor("float32", values, [1, 3, rows, columns]),
    degrees: new ort.Tensor("float32", degrees, [1, 2]),
  });
  const [pixels, used] = session.outputNames.map((name) => outputs[name]);
  return { pixels, degrees: used.data };
}

/** Write what is kept of a result, [1, 3, H, W] in [0, 1], in its place. */
function place({ data, dims }, rows, columns, image) {
  const [, , height, width] = dims;
  for (let row = SCALE * rows.kept[0]; row < SCALE * rows.kept[1]; row++)
    for (let column = SCALE * columns.kept[0]; column < SCALE * columns.kept[1]; column++) {
      const from = (row - SCALE * rows.read[0]) * width + column - SCALE * columns.read[0];
      const to = 4 * (row * image.width + column);
      for (let channel = 0; channel < 3; channel++)
        image.data[to + channel] = Math.round(255 * data[channel * height * width + from]);
      image.data[to + 3] = 255;
    }
}
