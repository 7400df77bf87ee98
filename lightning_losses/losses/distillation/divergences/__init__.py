"""Distances between the student's and the teacher's probabilities."""
