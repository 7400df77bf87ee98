"""Training one network, keeping it, and evaluating it."""
