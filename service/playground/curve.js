// A model's accuracy over its cost, with marks for requests.

import { drawn, element } from "./dom.js";
import { macs, percent } from "./numbers.js";

/** @typedef {import("./api.js").Model} Model */
/** @typedef {{key: string, cost: number, accuracy: number, interval: [number, number]}} Mark a request; cost in MACs */

const HEIGHT = 280, LEFT = 52, RIGHT = 16, TOP = 14, BOTTOM = 44;

/**
 * Draw the curve.
 * @param {HTMLElement} place is asked for its width, so that text keeps its size on phones
 * @param {Model} model
 * @param {Mark[]} marks
 * @param {(skipRatio: number) => void} choose called when a point is clicked; the slider does the same for keyboards
 */
export function showCurve(place, model, marks, choose) {
  const points = model.operating_points, width = Math.max(260, place.clientWidth);
  const { x, y, ticksX, ticksY } = scales(model, marks, width);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, class: "curve", role: "img", "aria-label": described(model, marks) });
  for (const value of ticksY) {
    svg.append(
      drawn("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      drawn("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, `${Math.round(100 * value)} %`),
    );
  }
  for (const value of ticksX) {
    svg.append(drawn("text", { x: x(value), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, `${Math.round((100 * value) / model.dense_macs)} %`));
  }
  svg.append(drawn("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, "MACs, of the plain twin’s"));
  svg.append(drawn("polyline", { class: "line", points: points.map((one) => `${x(one.gated_macs)},${y(one.accuracy)}`).join(" ") }));
  for (const point of points) {
    const [low, high] = point.accuracy_interval, at = x(point.gated_macs);
    const group = drawn(
      "g", { class: "point" },
      drawn("title", {}, `${point.name}: ${percent(point.accuracy)} correct, ${macs(point.gated_macs)} MACs`),
      drawn("line", { x1: at, x2: at, y1: y(low), y2: y(high) }),
      drawn("circle", { cx: at, cy: y(point.accuracy), r: 3 }),
      drawn("circle", { class: "target", cx: at, cy: y(point.accuracy), r: 10 }),
    );
    group.addEventListener("click", () => choose(point.skip_ratio));
    svg.append(group);
  }
  for (const mark of marks) svg.append(drawnMark(mark, x, y));
  place.replaceChildren(svg);
}

function drawnMark({ key, cost, accuracy, interval: [low, high] }, x, y) {
  const at = x(cost);
  return drawn(
    "g", { class: `mark ${key}` },
    drawn("line", { x1: at, x2: at, y1: y(low), y2: y(high) }),
    drawn("circle", { cx: at, cy: y(accuracy), r: 9 }),
    drawn("text", { x: at, y: y(accuracy) + 4, "text-anchor": "middle" }, key),
  );
}

function scales(model, marks, width) {
  const costs = [...model.operating_points.map((one) => one.gated_macs), ...marks.map((one) => one.cost)];
  const ends = [...model.operating_points.map((one) => one.accuracy_interval), ...marks.map((one) => one.interval)].flat();
  const step = 0.1 * model.dense_macs;
  const [left, right] = [Math.floor(Math.min(...costs) / step) * step, Math.ceil(Math.max(...costs) / step) * step];
  const [low, high] = [Math.floor(50 * Math.min(...ends)) / 50, Math.ceil(50 * Math.max(...ends)) / 50];
  const inner = width - LEFT - RIGHT;
  return {
    x: (cost) => LEFT + (inner * (cost - left)) / (right - left || 1),
    y: (accuracy) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * (accuracy - low)) / (high - low || 1),
    ticksX: ticks(left, right, inner < 400 ? 2 * step : step),
    ticksY: ticks(low, high, high - low > 0.1 ? 0.04 : 0.02),
  };
}

function ticks(from, to, step) {
  return Array.from({ length: Math.round((to - from) / step - 0.5) + 1 }, (_, number) => from + number * step);
}

function described(model, marks) {
  const [first, last] = [model.operating_points[0], model.operating_points.at(-1)];
  const end = (one) => `${percent(one.accuracy)} correct at ${percent(one.gated_macs / model.dense_macs)} of the plain twin’s MACs`;
  const curve = `Curve of ${model.operating_points.length} operating points, from ${first.name}, ${end(first)}, to ${last.name}, ${end(last)}.`;
  const here = marks.map((one) => ` Setting ${one.key}: ${percent(one.accuracy)} expected at ${percent(one.cost / model.dense_macs)}.`);
  return curve + here.join("");
}

/** @param {HTMLElement} place @param {Model} model */
export function showPoints(place, model) {
  const row = (kind, ...cells) => element("tr", {}, ...cells.map((cell) => element(kind, kind === "th" ? { scope: "col" } : {}, cell)));
  const rows = model.operating_points.map((point) => row(
    "td", point.name, percent(point.skip_ratio), macs(point.gated_macs), percent(point.accuracy),
    point.accuracy_interval.map((end) => percent(end)).join(" – "), `${point.accuracy_drop.toFixed(2)}`,
  ));
  place.replaceChildren(element(
    "table", {},
    element("thead", {}, row("th", "Point", "Skip ratio", "MACs", "Accuracy", "95 %", "Drop, points")),
    element("tbody", {}, ...rows),
  ));
}
