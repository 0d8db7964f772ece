"""Measurements and figures; each command writes a result file that the documentation quotes."""
