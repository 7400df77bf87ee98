"""Ready LightningModules."""

from lightning_losses.modules.classifier import Classifier
from lightning_losses.modules.distiller import Distiller, OnlineDistiller

__all__ = ["Classifier", "Distiller", "OnlineDistiller"]
