"""Losses of the teacher's inner layers: features, maps and relations among samples."""
