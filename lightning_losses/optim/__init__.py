"""Gradient and weight transformations for any optimizer, and helpers for decay and warm-up."""
