"""Measurements of a network as functions of tensors; the callbacks of the same names log them in training."""
