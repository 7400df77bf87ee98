"""Callbacks that watch: one file for each monitor."""
