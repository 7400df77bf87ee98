"""Small networks of this library, and timm's networks."""

from lightning_losses.networks.small_cnn import SmallCNN
from lightning_losses.networks.timm_network import timm_network

__all__ = ["SmallCNN", "timm_network"]
