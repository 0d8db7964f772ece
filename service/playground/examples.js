// Example images, drawn here: shapes on a field of 256 × 256.

import { element } from "./dom.js";

const SIDE = 256;

/** @typedef {(context: CanvasRenderingContext2D) => void} Example a function that draws what its name says */

function fade(context, top, bottom, from, to) {
  const colours = context.createLinearGradient(0, top, 0, bottom);
  colours.addColorStop(0, from);
  colours.addColorStop(1, to);
  context.fillStyle = colours;
  context.fillRect(0, top, SIDE, bottom - top);
}

function filled(context, colour, trace) {
  context.fillStyle = colour;
  context.beginPath();
  trace();
  context.fill();
}

const shape = (context, colour, ...corners) => filled(context, colour, () => corners.forEach(([x, y]) => context.lineTo(x, y)));
const disc = (context, colour, x, y, across, down = across) => filled(context, colour, () => context.ellipse(x, y, across, down, 0, 0, 2 * Math.PI));
const box = (context, colour, ...sides) => filled(context, colour, () => context.rect(...sides));

function ship(context) {
  fade(context, 0, 130, "#8fbce6", "#dfe4e6");
  fade(context, 130, SIDE, "#1d5f8c", "#22406e");
  box(context, "#c0392b", 120, 44, 23, 26);
  box(context, "#23232e", 120, 34, 23, 11);
  box(context, "#dcdcd6", 104, 68, 59, 29);
  box(context, "#ecece8", 84, 96, 107, 37);
  for (let x = 96; x < 180; x += 16) disc(context, "#3c5a80", x, 112, 4.5);
  shape(context, "#3a3a4a", [18, 132], [240, 132], [207, 179], [52, 179]);
  shape(context, "#96261f", [18, 132], [240, 132], [235, 141], [23, 141]);
  context.strokeStyle = "#9cc1da";
  context.lineWidth = 1.5;
  for (const [x, y] of [[48, 196], [148, 210], [88, 226], [188, 242]]) {
    context.beginPath();
    context.ellipse(x, y, 27, 4, 0, Math.PI, 2 * Math.PI);
    context.stroke();
  }
}

function airplane(context) {
  fade(context, 0, SIDE, "#5f9fdc", "#dcebf7");
  for (const [x, y, size] of [[52, 206, 26], [84, 212, 34], [118, 208, 24], [206, 60, 20], [228, 64, 26]]) {
    disc(context, "#f4f8fb", x, y, size, 0.5 * size);
  }
  shape(context, "#8d99a6", [118, 118], [150, 112], [112, 66], [98, 68]);
  shape(context, "#2f5d9b", [34, 104], [58, 112], [36, 64], [20, 62]);
  disc(context, "#eef1f4", 132, 122, 104, 17);
  shape(context, "#eef1f4", [28, 100], [70, 108], [70, 134], [40, 120]);
  shape(context, "#b4bec8", [104, 126], [152, 128], [98, 196], [80, 196]);
  shape(context, "#b4bec8", [36, 112], [60, 116], [34, 138], [22, 138]);
  box(context, "#39434e", 106, 158, 26, 9);
  for (let x = 84; x < 204; x += 12) disc(context, "#4a6076", x, 117, 2.6);
  shape(context, "#39434e", [212, 114], [226, 116], [231, 121], [214, 121]);
}

function automobile(context) {
  fade(context, 0, 150, "#a9c7dd", "#e6e4dc");
  box(context, "#7d8f6b", 0, 128, SIDE, 30);
  fade(context, 156, SIDE, "#6d6d72", "#55555b");
  disc(context, "#3a3a3f", 130, 201, 112, 9);
  shape(context, "#b3241c", [62, 138], [92, 98], [168, 98], [204, 138]);
  shape(context, "#c92a20", [18, 150], [30, 138], [214, 136], [240, 150], [242, 190], [16, 190]);
  shape(context, "#b9d3e3", [76, 137], [98, 105], [126, 105], [126, 137]);
  shape(context, "#a9c6d8", [133, 137], [133, 105], [163, 105], [190, 137]);
  box(context, "#8f1c15", 16, 176, 226, 14);
  disc(context, "#f5e6a6", 234, 158, 6, 5);
  for (const x of [70, 190]) {
    disc(context, "#1d1d21", x, 190, 25);
    disc(context, "#b9bcc2", x, 190, 13);
    disc(context, "#6f737a", x, 190, 5);
  }
}

/** @type {Example[]} */
export const EXAMPLES = [ship, airplane, automobile];

/** @param {Example} example @param {number} size in pixels @returns {HTMLCanvasElement} */
export function drawExample(example, size) {
  const canvas = /** @type {HTMLCanvasElement} */ (element("canvas", { width: size, height: size, "aria-hidden": "true" }));
  const context = canvas.getContext("2d");
  context.scale(size / SIDE, size / SIDE);
  example(context);
  return canvas;
}
