"""Callbacks that record a run: histories, metrics, figures, progress."""
