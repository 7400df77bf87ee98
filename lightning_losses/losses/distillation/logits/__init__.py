"""Losses of the teacher's logits that are more than one distance: targets, groups, relations, vocabularies."""
