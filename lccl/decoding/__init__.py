"""Encoded images → pixels: one definition for training, calibration and serving."""
