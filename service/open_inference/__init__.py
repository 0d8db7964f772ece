"""The Open Inference Protocol's bytes: requests → tensors → answers, without a web framework."""
