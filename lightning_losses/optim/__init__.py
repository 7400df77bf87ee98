"""Transformations of gradients and weights for any optimizer, and helpers for decay and warm-up."""
