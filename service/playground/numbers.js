// Numbers as the page writes them.

/** @param {number} share 0..1 @param {number} [digits] */
export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

/** @param {number} macs */
export const macs = (macs) => (macs >= 1e9 ? `${(macs / 1e9).toFixed(2)} G` : `${(macs / 1e6).toFixed(1)} M`);

/** @param {number} ms */
export const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;

/** @param {number} points percentage points */
export const points = (points) => `${points.toFixed(1)} ${Math.abs(points) === 1 ? "point" : "points"}`;
