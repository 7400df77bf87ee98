"""Objectives for classes and groups of unlike sizes, and for what metrics of them measure."""
