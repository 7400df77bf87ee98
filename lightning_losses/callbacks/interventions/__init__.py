"""Callbacks that change gradients, weights or the run."""
