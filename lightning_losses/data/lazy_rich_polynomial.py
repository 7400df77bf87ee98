"""Polynomial regression: a quadratic function of one direction, learnt lazily or richly."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.data.loading import Batch
from lightning_losses.data.resident import ResidentData
from lightning_losses.numerics.settings import Count


def quadratic_target(
    inputs: Float[Tensor, "samples features"], direction: Float[Tensor, " features"]
) -> Float[Tensor, " samples"]:
    """``(β·x)² / 2``.

    Example:
        >>> quadratic_target(torch.tensor([[2.0, 0.0]]), torch.tensor([1.0, 1.0]))
        tensor([2.])
    """
    return (inputs @ direction).square() / 2


class LazyRichPolynomial(ResidentData):
    """Inputs ``x ~ N(0, I / D)`` and target ``(β·x)² / 2`` with ``β ~ N(0, I)``, [n, 1].

    Made for `lightning_losses.networks.PolynomialNetwork`, whose initial features have no component along β: it first
    fits the training split with its initial kernel, and generalises when its weights turn.

    Args:
        dimension: D.
        train_samples: training samples; fewer than the D (D + 1) / 2 that determine a quadratic form.
        test_samples: held-out samples.
        fixed_norm: scale β to its average norm √D, so that seeds differ in the direction alone, and an error threshold
            means the same for each.
        seed: seed of everything.
        steps_per_epoch: see `ResidentData`.

    Raises:
        ValueError: numbers below 1.

    Source:
        Kumar, Bordelon, Gershman, Pehlevan, 2023, "Grokking as the Transition from Lazy to Rich Training Dynamics",
        arXiv:2310.06110.

    Example:
        >>> data = LazyRichPolynomial(dimension=4, train_samples=6, test_samples=3)
        >>> data.setup()
        >>> data.train["target"].shape
        torch.Size([6, 1])
    """

    name = "lazy_rich_polynomial"
    num_classes = 1

    dimension: Count = 100
    train_samples: Count = 550
    test_samples: Count = 1000
    fixed_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.num_features = self.dimension

    def make(self) -> tuple[Batch, Batch]:
        """Draw the direction, then both splits."""
        generator = self.generator()
        direction = torch.randn(self.num_features, generator=generator)
        if self.fixed_norm:
            direction *= math.sqrt(self.num_features) / direction.norm()
        train, test = (
            {"inputs": torch.randn(samples, self.num_features, generator=generator) / math.sqrt(self.num_features)}
            for samples in (self.train_samples, self.test_samples)
        )
        for split in (train, test):
            split["target"] = quadratic_target(split["inputs"], direction).unsqueeze(1)
        return train, test
