"""What numbers must show, and whether they do."""
