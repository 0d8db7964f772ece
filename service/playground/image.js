// The image that is sent: from a file, the clipboard, a drop, or drawn here.

/**
 * @typedef {{name: string, type: string, blob: Blob, bitmap: ImageBitmap | null, note: string}} Image `blob` is what is sent,
 *   `type` the original's; `bitmap` is null where the browser cannot show it
 */

// Networks see a few hundred pixels. A photo of many millions would be sent again for each move of the slider.
const LONGEST_SIDE = 1280;

/**
 * Read an image; large ones are scaled down before they are sent.
 * @param {Blob} blob
 * @param {string} name
 * @returns {Promise<Image>}
 */
export async function imageOf(blob, name) {
  const { type } = blob;
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return { name, type, blob, bitmap, note: "this browser cannot show it" };
  }
  const { width, height } = bitmap, longest = Math.max(width, height);
  if (longest <= LONGEST_SIDE) return { name, type, blob, bitmap, note: `${width} × ${height}` };
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round((width * LONGEST_SIDE) / longest));
  canvas.height = Math.max(1, Math.round((height * LONGEST_SIDE) / longest));
  drawOnWhite(canvas, bitmap, [0, 0, width, height]);
  const smaller = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
  const note = `${width} × ${height}, sent as ${canvas.width} × ${canvas.height}`;
  return { name, type, blob: smaller, bitmap, note };
}

/**
 * Draw what the network sees of an image: a square from its middle, or all of it stretched to one.
 * @param {HTMLCanvasElement} canvas
 * @param {Image} image
 * @param {number} seen share of the shorter side, or of both where it is stretched
 * @param {string} fit crop or stretch
 */
export function drawSquare(canvas, image, seen, fit) {
  const { width, height } = image.bitmap ?? canvas, shorter = Math.min(width, height);
  const [wide, high] = (fit === "stretch" ? [width, height] : [shorter, shorter]).map((side) => side * seen);
  drawOnWhite(canvas, image.bitmap, [(width - wide) / 2, (height - high) / 2, wide, high]);
}

function drawOnWhite(canvas, bitmap, [left, top, width, height]) {
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = width > canvas.width / 4; // pixels of small images stay visible
  context.imageSmoothingQuality = "high";
  if (bitmap) context.drawImage(bitmap, left, top, width, height, 0, 0, canvas.width, canvas.height);
}

/**
 * Take images that are dropped or pasted anywhere, or chosen.
 * @param {HTMLElement} zone lights up while something is dragged over the page
 * @param {HTMLInputElement} input
 * @param {(file: File) => void} take
 */
export function listen(zone, input, take) {
  const first = (files) => {
    if (files?.length) take(files[0]);
  };
  const light = (on) => (event) => {
    event.preventDefault();
    zone.classList.toggle("over", on);
  };
  document.addEventListener("dragover", light(true));
  document.addEventListener("dragleave", light(false));
  document.addEventListener("drop", (event) => {
    light(false)(event);
    first(event.dataTransfer?.files);
  });
  document.addEventListener("paste", (event) => first(event.clipboardData?.files));
  input.addEventListener("change", () => {
    first(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
}
