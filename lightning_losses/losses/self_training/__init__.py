"""What a network learns from its own predictions, or a teacher's, on data without labels."""
