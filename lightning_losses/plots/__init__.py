"""Figures: curves and reliability diagrams in one style."""
