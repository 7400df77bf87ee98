"""Losses whose teacher is the network itself."""
