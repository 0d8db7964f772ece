"""Several processes that serve one port: a supervisor hands connections to workers, each of them a whole service."""
