"""MNIST-1D whose test split is a stream of corruptions."""

from lightning_losses.data.corruptions.stream import CorruptionStream
from lightning_losses.data.mnist1d import MNIST1D


class CorruptedMNIST1D(MNIST1D, CorruptionStream):
    """MNIST-1D with clean training and validation, and its test split under one corruption after another.

    Args:
        corruptions, severity, stream_batch_size: see `CorruptionStream`.
        rows, batch_size, ...: see `MNIST1D`.
    """

    name = "corrupted_mnist1d"
