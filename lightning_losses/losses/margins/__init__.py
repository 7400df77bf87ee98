"""Objectives of cosines with a vector for each class, and of their relatives in hyperbolic space."""
