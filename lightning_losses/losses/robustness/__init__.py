"""Objectives for predictions that hold under attack, from logits of clean and of attacked inputs."""
