"""MNIST-5k whose test split is a stream of corruptions."""

from lightning_losses.data.corruptions.stream import CorruptionStream
from lightning_losses.data.mnist5k import MNIST5k


class CorruptedMNIST5k(MNIST5k, CorruptionStream):
    """MNIST-5k with clean training and validation, and its test split under one corruption after another.

    Args:
        corruptions, severity, stream_batch_size: see `CorruptionStream`.
        folder, batch_size, ...: see `MNIST5k`.
    """

    name = "corrupted_mnist5k"
