"""Callbacks that keep what a loss needs to know of the whole data set."""
