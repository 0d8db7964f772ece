"""Measuring what skipping gains: own engines beside the fastest dense ones, interleaved, each in its own process."""
