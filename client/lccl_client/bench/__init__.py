"""What ``lccl-client bench`` adds to the load generator: wishes, images, rates, tables."""
