"""Plausible mistakes, put into a copy of the package one at a time: python -m tests.mutants; the tests notice them."""
