"""Losses that train language models beside, or in the place of, cross-entropy of the next token."""
