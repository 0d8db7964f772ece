"""The native CPU engine: one call runs the whole plan, and only kept positions are computed."""
