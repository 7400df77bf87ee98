"""Objectives that compare domains of the training data, so that a network holds in a domain that it never saw."""
