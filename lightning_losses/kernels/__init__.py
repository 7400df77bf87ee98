"""Losses of a classifier head that never hold the [tokens, vocabulary] logits."""
