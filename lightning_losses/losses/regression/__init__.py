"""Objectives over real numbers, whose predictions say how sure they are."""
