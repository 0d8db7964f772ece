"""What ``lccl-client bench`` adds to the load generator: quality requests, images, rates, tables."""
