"""Callbacks that measure calibration, and fit calibrators after training."""
