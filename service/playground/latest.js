// Of many tasks, one at a time and only the newest.

const PATIENCE_MS = 1000;

/**
 * Runs one task at a time; of those that come meanwhile only the last is kept. A task is left to finish, because to
 * abort it would close its connection; one that takes long is aborted when a newer one comes.
 */
export class Latest {
  /** @type {((signal: AbortSignal) => Promise<void>) | null} */
  #next = null;
  /** @type {AbortController | null} */
  #running = null;
  #since = 0;

  /**
   * @param {(signal: AbortSignal) => Promise<void>} task handles its own errors
   * @param {boolean} [now] abort what runs: its answer is of no use any more
   */
  ask(task, now = false) {
    this.#next = task;
    if (this.#running && (now || performance.now() - this.#since > PATIENCE_MS)) this.#running.abort();
    if (!this.#running) this.#run();
  }

  async #run() {
    while (this.#next) {
      const task = this.#next;
      this.#next = null;
      this.#running = new AbortController();
      this.#since = performance.now();
      await task(this.#running.signal);
    }
    this.#running = null;
  }
}
