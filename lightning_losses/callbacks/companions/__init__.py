"""Callbacks that update state which a loss needs from the whole data set."""
