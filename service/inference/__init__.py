"""From images to results: decoding, queues, scheduling and devices. It knows no protocol."""
