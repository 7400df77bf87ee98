"""Recipes wire: configuration in; a trained model, numbers and pictures out."""
