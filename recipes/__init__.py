"""Recipes: from a configuration to a trained model, numbers and pictures."""
