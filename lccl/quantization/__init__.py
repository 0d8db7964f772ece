"""From a float plan and data to a quantised plan: scales, int8 weights, and what keeps sums from overflowing."""
