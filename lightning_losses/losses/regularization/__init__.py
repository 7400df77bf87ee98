"""Penalties beside an objective: on logits, weights or features."""
