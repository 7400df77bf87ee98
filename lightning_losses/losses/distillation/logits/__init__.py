"""Losses of the teacher's logits beyond a single divergence: with targets, groups, relations, vocabularies."""
