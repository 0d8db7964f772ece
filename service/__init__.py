"""The HTTP service: hosts LCCL models and lets every request choose its trade-off."""
