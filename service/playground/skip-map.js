// Masks as shares of work, and drawn as a cover over what was skipped.

/** @typedef {import("./api.js").Layer} Layer */
/** @typedef {{width: number, height: number, values: Float32Array}} Share of the work that was done, at each place */

export const COVER = [76, 20, 140];
const DONE = [233, 220, 255];

/**
 * The share of a layer's work that was done at each of its positions.
 * @param {Layer} layer
 * @returns {Share}
 */
export function shareOf(layer) {
  const { width, height, mask } = layer;
  const values = new Float32Array(width * height);
  for (const rows of mask) {
    rows.forEach((row, y) => {
      for (let x = 0; x < width; x++) if (row[x] === "1") values[y * width + x] += 1 / mask.length;
    });
  }
  return { width, height, values };
}

/**
 * All layers laid over the network's input, weighted by their MACs.
 * @param {Layer[]} layers
 * @param {Share[]} shares of the same layers
 * @param {{width: number, height: number}} size of the input
 * @returns {Share}
 */
export function summed(layers, shares, { width, height }) {
  const values = new Float32Array(width * height).fill(layers.length ? 0 : 1);
  const total = layers.reduce((sum, layer) => sum + layer.macs, 0);
  layers.forEach((layer, number) => {
    const share = shares[number], weight = layer.macs / total;
    for (let y = 0, at = 0; y < height; y++) {
      const row = Math.floor((y * share.height) / height) * share.width;
      for (let x = 0; x < width; x++, at++) values[at] += weight * share.values[row + Math.floor((x * share.width) / width)];
    }
  });
  return { width, height, values };
}

/**
 * Draw a share pixel by pixel: light where all was done, violet where nothing was.
 * @param {HTMLCanvasElement} canvas
 * @param {Share} share
 */
export function drawShare(canvas, share) {
  paint(canvas, share, (pixels, at, value) => {
    for (let channel = 0; channel < 3; channel++) pixels[at + channel] = value * DONE[channel] + (1 - value) * COVER[channel];
    pixels[at + 3] = 255;
  });
}

/**
 * Cover what was skipped, as large as the canvas.
 * @param {HTMLCanvasElement} canvas
 * @param {Share} share
 * @param {number} opacity of the cover where nothing was done, 0..1
 */
export function coverSkipped(canvas, share, opacity) {
  const small = document.createElement("canvas");
  paint(small, share, (pixels, at, value) => {
    pixels.set(COVER, at);
    pixels[at + 3] = 255 * opacity * (1 - value);
  });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function paint(canvas, { width, height, values }, pixel) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  values.forEach((value, number) => pixel(image.data, 4 * number, value));
  context.putImageData(image, 0, 0);
}
