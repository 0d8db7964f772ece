"""Training of LCCL networks and their plain twins; offline, the service does not need it."""
