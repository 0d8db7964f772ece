"""The routes, one file per protocol."""
