"""Objectives over classes for labels some of which are wrong."""
