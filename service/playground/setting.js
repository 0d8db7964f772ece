// One setting: what is asked for, the skip map, and what came of it.

import { byId, element, tell } from "./dom.js";
import { Latest } from "./latest.js";
import { percent } from "./numbers.js";
import { drawSquare } from "./image.js";
import { MODES } from "./quality.js";
import { showResults } from "./results.js";
import { coverSkipped, drawShare, shareOf, summed } from "./skip-map.js";

/**
 * @typedef {import("./api.js").Api} Api
 * @typedef {import("./api.js").Answer} Answer
 * @typedef {import("./api.js").Model} Model
 * @typedef {import("./image.js").Image} Image
 * @typedef {object} Shared what all settings have in common
 * @property {Model} model
 * @property {Image} image
 * @property {string} layer empty for all of them together
 * @property {number} opacity of the cover
 * @property {() => void} changed called when a setting asks for something else
 * @property {() => void} answered
 * @property {(error: Error) => void} failed
 * @property {(name: string) => void} chooseLayer
 */

export class Setting {
  /** @type {Answer | null} */
  answer = null;
  #latest = new Latest();
  /** @type {Record<string, any>} */
  #parts = {};
  #mode = MODES[0];
  #positions = new Map();
  /** What can be shown on the image: first all layers together, then each. @type {{name: string, share: object, ratio: number}[]} */
  #views = [];
  #strip = [];

  /** @param {string} key A or B @param {number} sparsity to start with @param {Api} api @param {Shared} shared */
  constructor(key, sparsity, api, shared) {
    Object.assign(this, { key, api, shared });
    this.#positions.set(MODES[0], sparsity);
    this.root = byId("setting").content.firstElementChild.cloneNode(true);
    for (const part of this.root.querySelectorAll("[data-part]")) this.#parts[part.dataset.part] = part;
    this.root.classList.add(key);
    this.#parts.title.append(element("span", { class: "badge", "aria-hidden": "true" }, key), `Setting ${key}`);
    this.root.setAttribute("aria-label", `Setting ${key}`);
    this.#parts.slider.addEventListener("input", () => {
      this.#positions.set(this.#mode, Number(this.#parts.slider.value));
      this.#showValue();
      this.#changed();
    });
  }

  /** The request's target or floor. */
  get quality() {
    return { [this.#mode.field]: String(this.#value()) };
  }

  /** Choose a sparsity, as on the curve. @param {number} ratio */
  chooseSparsity(ratio) {
    this.#positions.set(MODES[0], ratio);
    this.#parts.modes.querySelector("input").checked = true;
    this.#useMode(MODES[0]);
  }

  /** Another model: other modes and ranges, and another answer. */
  useModel() {
    const { modes } = this.#parts, offered = MODES.filter((mode) => mode.offered?.(this.shared.model) ?? true);
    if (!offered.includes(this.#mode)) this.#mode = MODES[0];
    modes.replaceChildren(modes.querySelector("legend"), ...offered.map((mode) => element(
      "label", {},
      element("input", { type: "radio", name: `mode-${this.key}`, value: mode.field, checked: mode === this.#mode, change: () => this.#useMode(mode) }),
      element("span", {}, mode.title),
    )));
    this.#useMode(this.#mode, true);
  }

  /** The answer is about another image or model. */
  forget() {
    this.answer = null;
    this.#views = [];
    this.draw();
  }

  /** Ask with what is set now. @param {boolean} [now] the answer under way is of no use any more */
  ask(now = true) {
    const { model, image } = this.shared;
    this.#latest.ask(async (signal) => {
      this.root.setAttribute("aria-busy", "true");
      try {
        const { answer, waited } = await this.api.skipMap(model, image.blob, this.quality, signal);
        this.#show(answer, waited);
      } catch (error) {
        if (error.name !== "AbortError") this.#fail(error);
      }
      this.root.removeAttribute("aria-busy");
    }, now);
  }

  /** Draw the skip map again, with the cover and the layer that are chosen now. */
  draw() {
    const { image, layer, opacity } = this.shared, { stage, shown } = this.#parts;
    drawSquare(stage, image, this.answer?.image.seen ?? 1, this.answer?.image.fit ?? "crop");
    const view = this.#views.find((one) => one.name === layer) ?? this.#views[0];
    if (view) coverSkipped(stage, view.share, opacity);
    const text = view ? `${view.name || "all layers, weighted by their work"}: ${percent(view.ratio)} skipped` : "";
    shown.textContent = text;
    shown.parentElement.hidden = !text;
    stage.setAttribute("aria-label", `${image.name}${text && `, covered where work was skipped. ${text}`}`);
    for (const one of this.#strip) one.input.checked = one.name === layer;
  }

  #useMode(mode, now = false) {
    this.#mode = mode;
    const { slider, asked } = this.#parts, { min, max, step, start } = mode.range(this.shared.model);
    Object.assign(slider, { min, max, step, disabled: min >= max });
    slider.value = String(Math.min(Math.max(this.#positions.get(mode) ?? start, min), max));
    asked.textContent = mode.asked;
    this.#showValue();
    this.#changed(now);
  }

  #value() {
    return this.#mode.value(Number(this.#parts.slider.value));
  }

  #showValue() {
    const { slider, value } = this.#parts, text = this.#mode.text(this.#value(), this.shared.model);
    value.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    slider.style.setProperty("--at", `${(100 * (slider.value - slider.min)) / (slider.max - slider.min || 1)}%`);
  }

  #changed(now = false) {
    this.shared.changed();
    this.ask(now);
  }

  #show(answer, waited) {
    this.answer = answer;
    tell(this.#parts.error, "");
    this.#parts.results.classList.remove("failed");
    showResults(this.#parts, answer, waited);
    const layers = answer.layers.map((one) => ({ name: one.name, share: shareOf(one), ratio: one.skip_ratio }));
    const share = summed(answer.layers, layers.map((one) => one.share), answer.image);
    this.#views = [{ name: "", share, ratio: answer.prediction.skip_ratio }, ...layers];
    this.#showStrip();
    this.draw();
    this.shared.answered();
  }

  #fail(error) {
    this.forget();
    this.#parts.results.classList.add("failed");
    this.#parts.layers.hidden = true;
    this.#parts.used.textContent = "";
    tell(this.#parts.error, error.status === 401 ? "" : error.message);
    this.shared.failed(error);
  }

  /** The layers' masks as small images; choosing one shows it on the image. */
  #showStrip() {
    const names = this.#views.map((one) => one.name);
    if (this.#strip.map((one) => one.name).join() !== names.join()) this.#makeStrip(names);
    this.#parts.layers.hidden = names.length === 1;
    this.#views.forEach(({ share, ratio }, number) => {
      drawShare(this.#strip[number].canvas, share);
      this.#strip[number].ratio.textContent = percent(ratio, 0);
    });
  }

  #makeStrip(names) {
    this.#strip.forEach((one) => one.label.remove());
    this.#strip = names.map((name) => {
      const input = element("input", { type: "radio", name: `layer-${this.key}`, value: name, change: () => this.shared.chooseLayer(name) });
      const canvas = element("canvas", { "aria-hidden": "true" }), ratio = element("b");
      const label = element("label", {}, input, canvas, element("span", {}, ...broken(name || "all layers")), ratio);
      return { name, input, canvas, ratio, label };
    });
    this.#parts.layers.append(...this.#strip.map((one) => one.label));
  }
}

/** A name that may be broken after its dots. @param {string} name @returns {(Node | string)[]} */
const broken = (name) => name.split(".").flatMap((part, number) => (number ? [".", element("wbr"), part] : [part]));
