"""Objectives of samples that have any number of labels each."""
