// One setting: what is asked for, the skip map, and what came of it.

import { byId, element, tell } from "./dom.js";
import { Latest } from "./latest.js";
import { percent } from "./numbers.js";
import { drawSquare } from "./image.js";
import { showClasses, showFigures, showMacs, showTime, used } from "./results.js";
import { coverSkipped, drawShare, shareOf, summed } from "./skip-map.js";
import { MODES, offers } from "./wish.js";

/**
 * @typedef {import("./api.js").Api} Api
 * @typedef {import("./api.js").Answer} Answer
 * @typedef {import("./api.js").Model} Model
 * @typedef {import("./image.js").Image} Image
 * @typedef {{model: Model, image: Image, layer: string, opacity: number}} Shared what all settings have in common;
 *   `layer` is empty for all of them together
 * @typedef {{changed: () => void, answered: () => void, failed: (error: Error) => void, layerChosen: (name: string) => void}} Listeners
 */

export class Setting {
  /** @type {Answer | null} */
  answer = null;
  #latest = new Latest();
  /** @type {Record<string, any>} */
  #parts = {};
  #mode = MODES[0];
  #choices = [];
  #positions = new Map();
  #shares = [];
  #sum = null;
  #strip = [];

  /** @param {string} key A or B @param {Api} api @param {Shared} shared @param {Listeners} listeners */
  constructor(key, api, shared, listeners) {
    this.key = key;
    this.api = api;
    this.shared = shared;
    this.listeners = listeners;
    this.root = byId("setting").content.firstElementChild.cloneNode(true);
    for (const part of this.root.querySelectorAll("[data-part]")) this.#parts[part.dataset.part] = part;
    this.root.classList.add(key);
    this.#parts.title.append(element("span", { class: "badge", "aria-hidden": "true" }, key), `Setting ${key}`);
    this.root.setAttribute("aria-label", `Setting ${key}`);
    for (const mode of MODES) this.#addMode(mode);
    this.#parts.slider.addEventListener("input", () => {
      this.#positions.set(this.#mode, Number(this.#parts.slider.value));
      this.#showValue();
      this.#changed();
    });
  }

  /** The request's fields. */
  get wish() {
    return { [this.#mode.field]: String(this.#value()) };
  }

  /** Choose a sparsity, as on the curve. @param {number} ratio */
  chooseSparsity(ratio) {
    this.#positions.set(MODES[0], ratio);
    this.#parts.modes.querySelector("input").checked = true;
    this.#useMode(MODES[0]);
  }

  /** Start with a sparsity other than the usual. @param {number} ratio */
  startAt(ratio) {
    this.#positions.set(MODES[0], ratio);
  }

  /** Another model: other ranges, and another answer. */
  useModel() {
    const { model } = this.shared;
    for (const { mode, input, label } of this.#choices) {
      label.hidden = !offers(mode, model);
      input.disabled = label.hidden;
    }
    const mode = offers(this.#mode, model) ? this.#mode : MODES[0];
    this.#choices.find((one) => one.mode === mode).input.checked = true;
    this.#useMode(mode, true);
  }

  /** What was answered is about another image or model. */
  forget() {
    this.answer = this.#sum = null;
    this.draw();
  }

  /** Ask with what is set now. @param {boolean} [now] what is under way is of no use any more */
  ask(now = true) {
    const { model, image } = this.shared;
    this.#latest.ask(async (signal) => {
      this.root.setAttribute("aria-busy", "true");
      try {
        const { answer, waited } = await this.api.skipMap(model, image.blob, this.wish, signal);
        this.#show(answer, waited);
      } catch (error) {
        if (error.name !== "AbortError") this.#fail(error);
      }
      this.root.removeAttribute("aria-busy");
    }, now);
  }

  /** Draw the skip map again, under the cover and of the layer that are chosen now. */
  draw() {
    const { image, layer, opacity } = this.shared, { stage, shown } = this.#parts;
    drawSquare(stage, image, this.answer?.image.seen ?? 1);
    const number = this.answer?.layers.findIndex((one) => one.name === layer) ?? -1;
    const share = number < 0 ? this.#sum : this.#shares[number];
    if (share) coverSkipped(stage, share, opacity);
    const what = number < 0 ? "all layers, weighted by their work" : layer;
    const ratio = number < 0 ? this.answer?.prediction.skip_ratio : this.answer.layers[number].skip_ratio;
    const text = share ? `${what}: ${percent(ratio)} skipped` : "";
    shown.textContent = text;
    shown.parentElement.hidden = !text;
    stage.setAttribute("aria-label", `${image.name}${text && `, covered where work was skipped. ${text}`}`);
    for (const one of this.#strip) one.input.checked = one.name === layer;
  }

  #addMode(mode) {
    const input = element("input", { type: "radio", name: `mode-${this.key}`, value: mode.field, checked: mode === this.#mode });
    input.addEventListener("change", () => this.#useMode(mode));
    const label = element("label", {}, input, element("span", {}, mode.title));
    this.#choices.push({ mode, input, label });
    this.#parts.modes.append(label);
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
    this.listeners.changed();
    this.ask(now);
  }

  #show(answer, waited) {
    this.answer = answer;
    const { figures, classes, macs, stages, legend, error, results } = this.#parts;
    tell(error, "");
    results.classList.remove("failed");
    this.#parts.used.textContent = used(answer);
    showFigures(figures, answer);
    showClasses(classes, answer);
    showMacs(macs, answer);
    showTime(stages, legend, answer, waited);
    this.#shares = answer.layers.map(shareOf);
    this.#sum = summed(answer.layers, this.#shares, answer.image);
    this.#showStrip();
    this.draw();
    this.listeners.answered();
  }

  #fail(error) {
    this.forget();
    this.#parts.results.classList.add("failed");
    this.#parts.layers.hidden = true;
    this.#parts.used.textContent = "";
    tell(this.#parts.error, error.status === 401 ? "" : error.message);
    this.listeners.failed(error);
  }

  /** The layers' masks as small images; choosing one shows it on the image. */
  #showStrip() {
    const { layers } = this.answer, names = ["", ...layers.map((one) => one.name)];
    if (this.#strip.map((one) => one.name).join() !== names.join()) this.#makeStrip(names);
    this.#parts.layers.hidden = !layers.length;
    this.#strip.forEach((one, number) => {
      drawShare(one.canvas, number ? this.#shares[number - 1] : this.#sum);
      one.ratio.textContent = percent(number ? layers[number - 1].skip_ratio : this.answer.prediction.skip_ratio, 0);
    });
  }

  #makeStrip(names) {
    this.#strip.forEach((one) => one.label.remove());
    this.#strip = names.map((name) => {
      const input = element("input", { type: "radio", name: `layer-${this.key}`, value: name });
      input.addEventListener("change", () => this.listeners.layerChosen(name));
      const canvas = element("canvas", { "aria-hidden": "true" }), ratio = element("b");
      const label = element("label", {}, input, canvas, element("span", {}, ...broken(name || "all layers")), ratio);
      return { name, input, canvas, ratio, label };
    });
    this.#parts.layers.append(...this.#strip.map((one) => one.label));
  }
}

/** A name that may be broken after its dots. @param {string} name @returns {(Node | string)[]} */
function broken(name) {
  return name.split(".").flatMap((part, number) => (number ? [".", element("wbr"), part] : [part]));
}
