"""The kinds of experiments beside one training."""
