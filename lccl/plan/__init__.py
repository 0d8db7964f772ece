"""The plan: a network as data, and what every engine reads of it."""
