"""LightningDataModules on real data that installs with pip."""

from lightning_losses.data.corrupted_mnist1d import CorruptedMNIST1D
from lightning_losses.data.corrupted_mnist5k import CorruptedMNIST5k
from lightning_losses.data.digits import Digits
from lightning_losses.data.image_data import ImageData, ImageDataset
from lightning_losses.data.keel import KEEL
from lightning_losses.data.mnist1d import MNIST1D
from lightning_losses.data.mnist5k import MNIST5k

__all__ = ["KEEL", "MNIST1D", "CorruptedMNIST1D", "CorruptedMNIST5k", "Digits", "ImageData", "ImageDataset", "MNIST5k"]
