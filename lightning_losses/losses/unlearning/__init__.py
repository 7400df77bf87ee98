"""Losses that make a language model forget some texts, and keep what it knows of others."""
