"""From held-out data to operating points: search, measurement, table."""
