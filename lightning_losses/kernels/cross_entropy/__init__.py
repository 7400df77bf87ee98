"""The implementations of `linear_cross_entropy`, and what they are given."""
