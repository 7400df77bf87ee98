"""Hydra configuration, installed as `lightning_losses.conf`: a package, so that it is found wherever it is installed."""
