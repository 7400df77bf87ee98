"""The implementations of `linear_cross_entropy`, and their input."""
