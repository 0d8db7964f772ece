// The targets and floors that can be asked for, and what a slider's position means in each.

import { milliseconds, percent, points } from "./numbers.js";

/** @typedef {import("./api.js").Model} Model */
/**
 * @typedef {object} Mode
 * @property {string} field the request's field
 * @property {string} title
 * @property {string} asked what the slider sets
 * @property {(model: Model) => boolean} [offered] whether a model takes it; all do without
 * @property {(model: Model) => {min: number, max: number, step: number, start: number}} range of the slider
 * @property {(position: number) => number} value that a position stands for
 * @property {(value: number, model: Model) => string} text
 */

const DEADLINES = [1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 80, 100, 150, 200, 300, 500, 1000];
const STEP = 0.005;

/** @type {Mode[]} */
export const MODES = [
  {
    field: "sparsity",
    title: "Sparsity",
    asked: "Share of the gated work to skip",
    range(model) {
      const [low, high] = model.sparsity_range;
      const [min, max] = [Math.floor(low / STEP) * STEP, Math.floor(high / STEP) * STEP];
      return { min, max, step: STEP, start: Math.min(Math.max(0.4, min), max) };
    },
    value: (position) => Number(position.toFixed(3)),
    text: (value, model) => (value <= model.sparsity_range[0] ? "exact" : percent(value)),
  },
  {
    field: "max_accuracy_drop",
    title: "Accuracy budget",
    asked: "Accuracy that may be lost, against exact",
    range(model) {
      const bounds = model.operating_points.map((point) => point.accuracy_drop_bound);
      return { min: 0, max: Math.max(1, Math.ceil(Math.max(...bounds))), step: 0.1, start: 2 };
    },
    value: (position) => Number(position.toFixed(1)),
    text: points,
  },
  {
    field: "deadline_ms",
    title: "Deadline",
    asked: "Time for the answer",
    range: () => ({ min: 0, max: DEADLINES.length - 1, step: 1, start: DEADLINES.indexOf(50) }),
    value: (position) => DEADLINES[position],
    text: milliseconds,
  },
  {
    field: "exit_confidence",
    title: "Early exits",
    asked: "Confidence that an early exit needs to answer",
    offered: (model) => model.exit_confidence_range !== null,
    range(model) {
      const [min, max] = model.exit_confidence_range;
      return { min, max, step: 0.01, start: Math.min(0.9, max) };
    },
    value: (position) => Number(position.toFixed(2)),
    text: (value, model) => (value >= model.exit_confidence_range[1] ? "exact" : percent(value, 0)),
  },
];
