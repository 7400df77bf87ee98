"""Losses of the router of a mixture of experts, which chooses for each token the experts that see it."""
