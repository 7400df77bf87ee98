"""Objectives of policies without given pairs: of single completions, of rewards, and of what a policy samples."""
