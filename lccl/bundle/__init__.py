"""A trained model on disk: its format, its model card, and its self-test."""
