"""What ``lccl-client bench`` adds to the load generator: wishes, pictures, rates, tables."""
