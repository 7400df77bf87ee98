"""One training, what is kept of it, and how it is evaluated."""
