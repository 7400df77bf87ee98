"""LightningDataModules on real data that installs with pip."""

from lightning_losses.data.coloured_digits import ColouredDigits
from lightning_losses.data.corrupted_mnist1d import CorruptedMNIST1D
from lightning_losses.data.corrupted_mnist5k import CorruptedMNIST5k
from lightning_losses.data.digits import Digits
from lightning_losses.data.domain_data import DomainData, DomainDataset
from lightning_losses.data.image_data import ImageData, ImageDataset
from lightning_losses.data.keel import KEEL
from lightning_losses.data.known_classes import KnownClasses
from lightning_losses.data.mnist1d import MNIST1D
from lightning_losses.data.mnist1d_domains import MNIST1DDomains
from lightning_losses.data.mnist5k import MNIST5k
from lightning_losses.data.noise import GaussianNoise
from lightning_losses.data.rotated_digits import RotatedDigits

__all__ = [
    "KEEL",
    "MNIST1D",
    "ColouredDigits",
    "CorruptedMNIST1D",
    "CorruptedMNIST5k",
    "Digits",
    "DomainData",
    "DomainDataset",
    "GaussianNoise",
    "ImageData",
    "ImageDataset",
    "KnownClasses",
    "MNIST1DDomains",
    "MNIST5k",
    "RotatedDigits",
]
