"""Objectives over classes, without a teacher."""
