"""Hydra configuration; a package, `lightning_losses.conf`, so that it is found wherever it is installed."""
