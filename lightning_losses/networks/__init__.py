"""Small networks of ours; larger ones come from timm."""

from lightning_losses.networks.small_cnn import SmallCNN

__all__ = ["SmallCNN"]
