"""Objectives that train a network to know how sure it is."""
