"""What the service tells of itself: metrics, accounting, logs and traces."""
