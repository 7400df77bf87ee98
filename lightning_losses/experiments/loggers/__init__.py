"""Loggers of a run's numbers and pictures."""
