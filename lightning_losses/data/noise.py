"""Gaussian noise in the shape of a data set's inputs: foreign data for any network of normalised inputs."""

from collections.abc import Sequence
from dataclasses import KW_ONLY

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses.numerics.settings import Count, Declared, Seed


class GaussianNoise(Declared, L.LightningDataModule):
    """Independent standard normal numbers, as test data alone.

    Args:
        input_shape: the shape of an input.
        rows: how many there are.
        seed: decides them.
        batch_size: of the loader.

    Example:
        >>> (inputs,) = next(iter(GaussianNoise(input_shape=[1, 8, 8], rows=10).test_dataloader()))
        >>> inputs.shape
        torch.Size([10, 1, 8, 8])
    """

    name = "gaussian_noise"

    _: KW_ONLY
    input_shape: Sequence[int]
    rows: Count = 1000
    seed: Seed = 0
    batch_size: Count = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.input_shape, Sequence):
            raise ValueError(
                f"{self.name}: input_shape={self.input_shape!r} came; give whole numbers such as [1, 8, 8]."
            )

    def drawn(self) -> Float[Tensor, "rows ..."]:
        """The noise, the same for the same seed."""
        return torch.randn(self.rows, *self.input_shape, generator=torch.Generator().manual_seed(self.seed))

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The noise in batches."""
        return DataLoader(TensorDataset(self.drawn()), self.batch_size)
