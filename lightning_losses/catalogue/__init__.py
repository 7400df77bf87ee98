"""What there is, and how to begin what is new."""
