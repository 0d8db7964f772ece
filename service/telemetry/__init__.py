"""Metrics, accounting, logs and traces."""
