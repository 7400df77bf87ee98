"""Measurements of a network as functions of tensors; callbacks of the same names log them during training."""
