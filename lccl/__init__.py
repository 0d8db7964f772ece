"""LCCL: residual networks that skip work, with the trade-off chosen per image."""
