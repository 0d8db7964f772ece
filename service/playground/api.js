// The requests that the page sends to the service.

/**
 * @typedef {{name: string, skip_ratio: number, gated_macs: number, accuracy: number, accuracy_interval: [number, number],
 *   accuracy_drop: number, accuracy_drop_bound: number, exit_confidence: number[]}} Point
 * @typedef {{name: string, version: string, engine: string, precision: string, labels: string[], dense_macs: number,
 *   sparsity_range: [number, number], measured_images: number, operating_points: Point[],
 *   exits: {number: number, after_block: number}[], exit_confidence_range: [number, number] | null}} Model
 * @typedef {{name: string, height: number, width: number, cells: number, kept: number, skip_ratio: number, macs: number,
 *   mask: string[][]}} Layer
 * @typedef {{name: string | null, sparsity: number, expected_accuracy: number, accuracy_interval: [number, number],
 *   expected_accuracy_drop: number, downgraded: boolean, exit_confidence: number[]}} PointUsed
 * @typedef {{operating_point: PointUsed, image: {width: number, height: number, seen: number, fit: string},
 *   layers: Layer[], prediction: {classes: {label: string, probability: number}[], skip_ratio: number, exit: number | null,
 *     macs: {dense: number, gated: number, executed: number}},
 *   timing_ms: {decode: number, queue: number, compute: number, total: number}}} Answer
 */

/** An error of the service, or of the way to it. @param {number} status 0 when there was no answer @param {string} message a sentence */
const apiError = (status, message) => Object.assign(new Error(message), { status });

export class Api {
  /** The API key; it is stored nowhere else. */
  key = "";

  /** @returns {Promise<{default: string, models: Model[]}>} */
  models() {
    return this.#ask("v1/models", {});
  }

  /**
   * Classify an image and see where the network computed.
   * @param {Model} model
   * @param {Blob} image
   * @param {Record<string, string>} quality the request's target or floor
   * @param {AbortSignal} signal
   * @returns {Promise<{answer: Answer, waited: number}>} with the milliseconds until the answer was there
   */
  async skipMap(model, image, quality, signal) {
    const path = `v1/models/${encodeURIComponent(model.name)}/versions/${encodeURIComponent(model.version)}/skip-map`;
    const headers = image.type ? { "Content-Type": image.type } : {};
    const started = performance.now();
    const query = new URLSearchParams({ ...quality, top_k: "5" });
    const answer = await this.#ask(`${path}?${query}`, { method: "POST", body: image, headers, signal });
    return { answer, waited: performance.now() - started };
  }

  async #ask(path, options) {
    const headers = { Accept: "application/json", ...options.headers };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    let response, content;
    try {
      response = await fetch(path, { ...options, headers });
      content = await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw apiError(response?.status ?? 0, "The server cannot be reached: see whether it runs, then try again.");
    }
    if (!response.ok) throw apiError(response.status, sentence(content.detail ?? response.statusText));
    return content;
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
