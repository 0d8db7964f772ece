// An answer's classes, work and time.

import { element } from "./dom.js";
import { macs, milliseconds, percent } from "./numbers.js";

/** @typedef {import("./api.js").Answer} Answer */

/** @param {Answer} answer @param {number} waited @returns {[string, number, string][]} stages of the time: name, ms, CSS class */
function stages({ timing_ms: time }, waited) {
  const rest = Math.max(0, time.total - time.decode - time.queue - time.compute);
  return [
    ["Decode", time.decode, "decode"],
    ["Queue", time.queue, "queue"],
    ["Compute", time.compute, "compute"],
    ["Rest of the server", rest, "rest"],
    ["Network and browser", Math.max(0, waited - time.total), "network"],
  ];
}

/** @param {Answer} answer @returns {number} share of the plain twin's MACs that this image was spared */
export function saved({ prediction: { macs } }) {
  return 1 - macs.gated / macs.dense;
}

/** @param {Answer} answer @returns {boolean} whether images may leave the model early */
const hasExits = (answer) => answer.operating_point.exit_confidence.length > 0;

/** @param {Answer} answer */
const answeredBy = ({ prediction: { exit } }) => (exit === null ? "the end" : `exit ${exit}`);

/** @param {HTMLElement} place @param {Answer} answer */
export function showFigures(place, answer) {
  const figure = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));
  place.replaceChildren(
    figure("Skip ratio", percent(answer.prediction.skip_ratio)),
    figure("MACs saved", percent(saved(answer))),
    figure("Expected accuracy", percent(answer.operating_point.expected_accuracy)),
    figure("In the server", milliseconds(answer.timing_ms.total)),
    ...(hasExits(answer) ? [figure("Answered by", answeredBy(answer))] : []),
  );
}

/** @param {HTMLElement} place @param {Answer} answer */
export function showClasses(place, { prediction }) {
  place.replaceChildren(
    ...prediction.classes.map(({ label, probability }) => bar(label, probability, percent(probability))),
  );
}

/** @param {HTMLElement} place @param {Answer} answer */
export function showMacs(place, { prediction: { macs: work } }) {
  place.replaceChildren(
    bar("Plain twin", 1, macs(work.dense), "dense"),
    bar("This image, in theory", work.gated / work.dense, macs(work.gated), "gated"),
    bar("Really run", work.executed / work.dense, macs(work.executed), "executed"),
  );
}

/** @param {HTMLElement} strip @param {HTMLElement} legend @param {Answer} answer @param {number} waited ms until the page had it */
export function showTime(strip, legend, answer, waited) {
  const parts = stages(answer, waited);
  strip.replaceChildren(...parts.map(([, ms, kind]) => {
    const part = element("span", { class: kind });
    part.style.flexGrow = String(ms);
    return part;
  }));
  legend.replaceChildren(
    ...parts.map(([name, ms, kind]) => element("li", {}, element("i", { class: kind }), name, element("b", {}, milliseconds(ms)))),
  );
}

function bar(name, share, text, kind = "") {
  const filled = element("span", { class: `filled ${kind}` });
  filled.style.width = `${100 * share}%`;
  return element("li", {}, element("span", {}, name), element("span", { class: "track", "aria-hidden": "true" }, filled), element("b", {}, text));
}

/** @param {Answer} answer @param {string} [who] an answer in a sentence or two */
export function spoken(answer, who = "") {
  const [best] = answer.prediction.classes;
  return `${who}${best.label}, ${percent(best.probability)}. ${percent(answer.prediction.skip_ratio)} of the gated work skipped, ` +
    `${percent(saved(answer))} of multiply-accumulates saved, ${milliseconds(answer.timing_ms.total)}.` +
    (hasExits(answer) ? ` Answered by ${answeredBy(answer)}.` : "");
}

/** @param {Answer} answer @returns {string} what the image was run with, and what that promises */
export function used({ operating_point: point }) {
  const [low, high] = point.accuracy_interval;
  const name = point.name ?? `${percent(point.sparsity)} (between two points)`;
  const loss = point.expected_accuracy_drop;
  const against = point.name === "exact" ? "" : `, ${Math.abs(loss).toFixed(2)} points ${loss < 0 ? "above" : "below"} exact`;
  return `${point.downgraded ? "Lowered to" : "Ran with"} ${name}: ${percent(point.expected_accuracy)} of images right ` +
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
    `${work < 0 ? "fewer" : "more"} MACs and is expected to be right ${Math.abs(right).toFixed(1)} points ` +
    `${right < 0 ? "less" : "more"} often; ${classes}.`;
}
