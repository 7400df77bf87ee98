"""Configurations: checked, typed, and built."""
