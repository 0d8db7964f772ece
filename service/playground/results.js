// An answer's classes, work and time, and in sentences.

import { element } from "./dom.js";
import { macs, milliseconds, percent } from "./numbers.js";

/** @typedef {import("./api.js").Answer} Answer */

/** @param {Answer} answer @returns {number} share of the plain twin's MACs that this image was spared */
const saved = ({ prediction: { macs } }) => 1 - macs.gated / macs.dense;

/** @param {Answer} answer @returns {boolean} whether images may leave the model early */
const hasExits = (answer) => answer.operating_point.exit_confidence.length > 0;

/** @param {Answer} answer */
const answeredBy = ({ prediction: { exit } }) => (exit === null ? "the end" : `exit ${exit}`);

/**
 * Show an answer's figures, classes, work and time.
 * @param {Record<string, HTMLElement>} places
 * @param {Answer} answer
 * @param {number} waited ms until the page had it
 */
export function showResults({ used, figures, classes, macs: work, stages, legend }, answer, waited) {
  const { prediction, timing_ms: time } = answer, { dense, gated, executed } = prediction.macs;
  const figure = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));
  used.textContent = sentence(answer);
  figures.replaceChildren(
    figure("Skip ratio", percent(prediction.skip_ratio)),
    figure("MACs saved", percent(saved(answer))),
    figure("Expected accuracy", percent(answer.operating_point.expected_accuracy)),
    figure("In the server", milliseconds(time.total)),
    ...(hasExits(answer) ? [figure("Answered by", answeredBy(answer))] : []),
  );
  classes.replaceChildren(...prediction.classes.map(({ label, probability }) => bar(label, probability, percent(probability))));
  work.replaceChildren(
    bar("Plain twin", 1, macs(dense), "dense"),
    bar("This image, in theory", gated / dense, macs(gated), "gated"),
    bar("Executed", executed / dense, macs(executed), "executed"),
  );
  const parts = [
    ["Decode", time.decode, "decode"],
    ["Queue", time.queue, "queue"],
    ["Compute", time.compute, "compute"],
    ["Rest of the server", Math.max(0, time.total - time.decode - time.queue - time.compute), "rest"],
    ["Network and browser", Math.max(0, waited - time.total), "network"],
  ];
  stages.replaceChildren(...parts.map(([, ms, kind]) => styled(element("span", { class: kind }), { flexGrow: ms })));
  legend.replaceChildren(
    ...parts.map(([name, ms, kind]) => element("li", {}, element("i", { class: kind }), name, element("b", {}, milliseconds(ms)))),
  );
}

function styled(made, style) {
  Object.assign(made.style, style);
  return made;
}

function bar(name, share, text, kind = "") {
  const filled = styled(element("span", { class: `filled ${kind}` }), { width: `${100 * share}%` });
  return element("li", {}, element("span", {}, name), element("span", { class: "track", "aria-hidden": "true" }, filled), element("b", {}, text));
}

/** @param {Answer} answer @param {string} [who] an answer in a sentence or two */
export function spoken(answer, who = "") {
  const [best] = answer.prediction.classes;
  return `${who}${best.label}, ${percent(best.probability)}. ${percent(answer.prediction.skip_ratio)} of the gated work skipped, ` +
    `${percent(saved(answer))} of multiply-accumulates saved, ${milliseconds(answer.timing_ms.total)}.` +
    (hasExits(answer) ? ` Answered by ${answeredBy(answer)}.` : "");
}

/** @param {Answer} answer @returns {string} what the image was run with, and what to expect of it */
function sentence({ operating_point: point }) {
  const [low, high] = point.accuracy_interval;
  const name = point.name ?? `${percent(point.sparsity)} (between two points)`;
  const loss = point.expected_accuracy_drop;
  const against = point.name === "exact" ? "" : `, ${Math.abs(loss).toFixed(2)} points ${loss < 0 ? "above" : "below"} exact`;
  return `${point.downgraded ? "Lowered to" : "Ran with"} ${name}: ${percent(point.expected_accuracy)} of images correct ` +
    `(${percent(low)} – ${percent(high)})${against}.${leaving(point.exit_confidence)}`;
}

/** @param {number[]} confidences @returns {string} how sure each exit that may answer must be */
function leaving(confidences) {
  const open = confidences.flatMap((one, number) => (one < 1 ? [`exit ${number} above ${percent(one, one < 0.99 ? 0 : 2)}`] : []));
  return open.length ? ` Images leave by ${open.join(", ")}.` : "";
}

/** @param {Answer} a @param {Answer} b @returns {string} how B differs from A */
export function difference(a, b) {
  const [first, second] = [a.prediction.classes[0], b.prediction.classes[0]];
  const skips = 100 * (b.prediction.skip_ratio - a.prediction.skip_ratio);
  const work = b.prediction.macs.gated - a.prediction.macs.gated;
  const right = 100 * (b.operating_point.expected_accuracy - a.operating_point.expected_accuracy);
  const classes = first.label === second.label
    ? `both say ${first.label}, ${percent(first.probability)} and ${percent(second.probability)}`
    : `A says ${first.label}, B says ${second.label}`;
  return `B skips ${Math.abs(skips).toFixed(1)} points ${skips < 0 ? "less" : "more"} than A, takes ${macs(Math.abs(work))} ` +
    `${work < 0 ? "fewer" : "more"} MACs and has an expected accuracy ${Math.abs(right).toFixed(1)} points ` +
    `${right < 0 ? "lower" : "higher"}; ${classes}.`;
}
