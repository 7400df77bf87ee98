"""The kinds of experiments."""
