"""Objectives of how features depend on inputs, targets, graphs and each other."""
