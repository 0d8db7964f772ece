"""What the lines of a comparison and its settings are called."""

OWN_DENSE, OWN = "own dense", "LCCL"
DENSE = "dense"  # the plain twin's only setting
OPEN = "−∞"  # nothing is skipped, no image leaves by an exit, and both are computed
