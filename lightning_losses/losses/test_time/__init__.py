"""What a network learns from its own predictions on unlabelled test data."""
