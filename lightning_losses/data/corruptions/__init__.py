"""Corruptions of images and signals: kinds and severities, reproducible by seed and position."""

from lightning_losses.data.corruptions.corruption import Corruption, corrupted
from lightning_losses.data.corruptions.images import IMAGE_CORRUPTIONS
from lightning_losses.data.corruptions.signals import SIGNAL_CORRUPTIONS
from lightning_losses.data.corruptions.stream import CorruptionStream

__all__ = ["IMAGE_CORRUPTIONS", "SIGNAL_CORRUPTIONS", "Corruption", "CorruptionStream", "corrupted"]
