"""The machine's resources: optional packages, files, and a cache folder."""
