"""Objectives that train a network for calibrated confidence."""
