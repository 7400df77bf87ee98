"""What a recipe is made of: train a network, keep it, evaluate it, and start from a command line."""
