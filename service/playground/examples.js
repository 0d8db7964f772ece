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

// Clouds, grass and the like: dots that look alike each time the page is opened.
function scatter(context, count, dot) {
  let seed = 1;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  for (let number = 0; number < count; number++) dot(random);
}

function clouds(context, ...places) {
  context.filter = "blur(5px)";
  scatter(context, 14 * places.length, (random) => {
    const [x, y, size] = places[Math.floor(random() * places.length)];
    disc(context, "#ffffff90", x + size * (random() - 0.5), y + 0.3 * size * (random() - 0.5), 0.4 * size, 0.16 * size);
  });
  context.filter = "none";
}

function grass(context, top, from, to) {
  fade(context, top, SIDE, from, to);
  scatter(context, 2600, (random) => {
    const depth = random() ** 2, x = SIDE * random(), y = top + (SIDE - top) * depth;
    context.strokeStyle = `hsl(${85 + 30 * random()} ${40 + 20 * random()}% ${22 + 24 * random()}% / 0.6)`;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + 3 * (random() - 0.5), y - 2 - 9 * depth);
    context.stroke();
  });
}

function parachute(context) {
  fade(context, 0, SIDE, "#2f6fc0", "#b9d7f0");
  clouds(context, [40, 200, 90], [190, 226, 120], [226, 40, 60]);
  const gores = ["#d7263d", "#f4f1ea", "#1b3f8b", "#f4b41a", "#d7263d", "#f4f1ea", "#1b3f8b"];
  const width = 156 / gores.length, left = 50, hem = 98;
  gores.forEach((colour, number) => filled(context, colour, () => {
    const from = left + number * width, to = from + width;
    context.moveTo(from, hem);
    context.bezierCurveTo(from + 0.1 * (128 - from), 56, 0.45 * from + 0.55 * 128, 26, 128, 24);
    context.bezierCurveTo(0.45 * to + 0.55 * 128, 26, to + 0.1 * (128 - to), 56, to, hem);
    context.quadraticCurveTo((from + to) / 2, hem - 9, from, hem);
  }));
  const shade = context.createRadialGradient(104, 44, 10, 128, 70, 96);
  shade.addColorStop(0, "#ffffff40");
  shade.addColorStop(1, "#0a143048");
  filled(context, shade, () => {
    context.moveTo(left, hem);
    context.bezierCurveTo(left + 8, 50, 90, 24, 128, 24);
    context.bezierCurveTo(166, 24, 198, 50, 206, hem);
  });
  context.strokeStyle = "#38404c";
  context.lineWidth = 0.8;
  for (let number = 0; number <= gores.length; number++) {
    context.beginPath();
    context.moveTo(left + number * width, hem);
    context.lineTo(number < gores.length / 2 ? 125 : 131, 192);
    context.stroke();
  }
  disc(context, "#2b2b33", 128, 191, 5);
  shape(context, "#3b4a2f", [121, 197], [135, 197], [134, 219], [122, 219]);
  shape(context, "#26262c", [122, 218], [128, 218], [125, 240], [120, 240]);
  shape(context, "#26262c", [128, 218], [134, 218], [137, 239], [132, 240]);
}

function golf_ball(context) {
  fade(context, 0, 96, "#5d7f45", "#7fa457");
  context.filter = "blur(6px)";
  scatter(context, 40, (random) => disc(context, "#2f4f28b0", SIDE * random(), 60 * random(), 26, 14));
  context.filter = "none";
  grass(context, 84, "#7da650", "#4c7a2c");
  context.filter = "blur(4px)";
  disc(context, "#1c3312b0", 150, 205, 78, 15);
  context.filter = "none";
  const light = context.createRadialGradient(104, 106, 8, 128, 138, 78);
  light.addColorStop(0, "#ffffff");
  light.addColorStop(0.55, "#e9ece8");
  light.addColorStop(1, "#8d978c");
  disc(context, light, 128, 138, 70);
  for (let row = -7; row <= 7; row++) {
    for (let column = -7; column <= 7; column++) {
      const x = (column + 0.5 * (row & 1)) / 7.6, y = row / 8.2, away = Math.hypot(x, y);
      if (away > 0.92) continue;
      const deep = Math.sqrt(1 - away * away), out = 70 * (1 + 0.12 * (1 - deep));
      disc(context, "#7a857a66", 128 + out * x, 138 + out * y, 3.6 * (0.35 + 0.65 * deep), 3.4 * (0.4 + 0.6 * deep));
      disc(context, "#ffffff8c", 128.8 + out * x, 139.2 + out * y, 2.5 * (0.35 + 0.65 * deep), 2.3 * (0.4 + 0.6 * deep));
    }
  }
}

function church(context) {
  fade(context, 0, SIDE, "#4d86c6", "#dbe8f2");
  clouds(context, [60, 60, 90], [212, 96, 100]);
  grass(context, 204, "#6f9a4d", "#3f6a2a");
  shape(context, "#6a3a34", [112, 118], [176, 100], [244, 142], [244, 148], [112, 148]);
  box(context, "#ece7dc", 116, 146, 122, 70);
  box(context, "#f6f2e8", 66, 92, 58, 124);
  box(context, "#d9d2c2", 112, 92, 12, 124);
  shape(context, "#6b7078", [62, 94], [95, 14], [128, 94]);
  shape(context, "#565b63", [95, 14], [128, 94], [108, 94]);
  box(context, "#3c3f45", 93.5, 0, 3, 18);
  box(context, "#3c3f45", 89, 5, 12, 3);
  const arch = (colour, x, y, wide, high) => filled(context, colour, () => {
    context.moveTo(x, y + high);
    context.lineTo(x, y + wide / 2);
    context.arc(x + wide / 2, y + wide / 2, wide / 2, Math.PI, 0);
    context.lineTo(x + wide, y + high);
  });
  arch("#4a2f22", 84, 172, 22, 44);
  arch("#39424d", 86, 108, 18, 30);
  disc(context, "#39424d", 95, 156, 7);
  for (const x of [134, 162, 190, 216]) arch("#45566a", x, 162, 13, 34);
}

/** @type {Example[]} */
const EXAMPLES = [parachute, golf_ball, church, ship, airplane, automobile];

/** @param {string[]} labels a model's classes @returns {Example[]} those that show one of them, else all */
export function examplesOf(labels) {
  const known = EXAMPLES.filter((example) => labels.includes(example.name));
  return known.length ? known : EXAMPLES;
}

/** @param {Example} example @returns {string} what it shows */
export const titleOf = (example) => example.name.replaceAll("_", " ");

/** @param {Example} example @param {number} size in pixels @returns {HTMLCanvasElement} */
export function drawExample(example, size) {
  const canvas = /** @type {HTMLCanvasElement} */ (element("canvas", { width: size, height: size, "aria-hidden": "true" }));
  const context = canvas.getContext("2d");
  context.scale(size / SIDE, size / SIDE);
  example(context);
  return canvas;
}
