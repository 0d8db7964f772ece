"""Engines: what runs a plan on a device. Each is imported only when it is chosen."""
