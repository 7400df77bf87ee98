"""Objectives that need no labels: two views of a sample shall agree, and embeddings must not collapse."""
