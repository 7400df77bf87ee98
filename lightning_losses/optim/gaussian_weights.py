"""A Gaussian over weights, from those that an optimizer visits."""

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import torch
from torch import Tensor

from lightning_losses.numerics.settings import Bound, Declared


class GaussianWeights(Declared):
    """The Gaussian of SWAG: the visited weights' mean, their variances, and the last deviations as a low rank.

    ``w = m + scale (diag(v)^(1/2) z_1 + D z_2 / sqrt(K - 1)) / sqrt(2)`` with normal z, where v are the variances of
    the visited weights, and the columns of D the last K weights, each less the mean that there was when it came.

    Args:
        rank: the largest K, at least 2; the state is K + 2 copies of the weights.

    Attributes:
        visits: how many weights came.
        mean: m by name.

    Raises:
        ValueError: a rank below 2; in sampling, fewer than two visits.

    Source:
        Maddox, Garipov, Izmailov, Vetrov, Wilson, 2019, "A Simple Baseline for Bayesian Uncertainty in Deep Learning",
        arXiv:1902.02476. There v is the second moment less the squared mean, which cancels in float32; here it is
        updated as a sum of squared deviations, which is the same number. While there are fewer deviations than the
        rank, K is their number; the authors' code divides by the rank.

    Example:
        >>> weights = GaussianWeights(rank=2)
        >>> for value in (1.0, 3.0):
        ...     weights.collect({"weight": torch.tensor([value])})
        >>> weights.mean["weight"], weights.variance()["weight"]
        (tensor([2.]), tensor([1.]))
    """

    name = "swag"

    rank: Annotated[int, Bound(least=2)] = 20
    visits: int = field(init=False, default=0)
    mean: dict[str, Tensor] = field(init=False, default_factory=dict)
    _squares: dict[str, Tensor] = field(init=False, default_factory=dict)
    _deviations: list[dict[str, Tensor]] = field(init=False, default_factory=list)

    @torch.no_grad()
    def collect(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights, by name; they are copied."""
        self.visits += 1
        newest = dict[str, Tensor]()
        for name, weight in weights.items():
            wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
            before = self.mean.get(name, torch.zeros_like(wide))
            self.mean[name] = before + (wide - before) / self.visits
            newest[name] = wide - self.mean[name]
            self._squares[name] = self._squares.get(name, torch.zeros_like(wide)) + (wide - before) * newest[name]
        self._deviations = [*self._deviations, newest][-self.rank :]

    def variance(self) -> dict[str, Tensor]:
        """The variances of the visited weights, by name."""
        return {name: squares / max(self.visits, 1) for name, squares in self._squares.items()}

    @torch.no_grad()
    def sample(self, generator: torch.Generator, scale: float = 1.0) -> dict[str, Tensor]:
        """Draw weights; with a scale of 0 they are the mean.

        Args:
            generator: on the CPU, where the collected weights are.
            scale: of the deviation, at least 0.

        Raises:
            ValueError: fewer than two visits, which have no variance.
        """
        if self.visits < 2:
            raise ValueError(
                f"{self.name}: {self.visits} weights were collected, and a variance needs 2; collect more."
            )
        count = len(self._deviations)
        # Named, since another device may be the default.
        device = generator.device
        shares = torch.randn(count, generator=generator, device=device, dtype=torch.float64).tolist()
        drawn = dict[str, Tensor]()
        for name, variance in self.variance().items():
            noise = torch.randn(variance.shape, generator=generator, device=device, dtype=variance.dtype)
            step = variance.sqrt() * noise
            for share, deviations in zip(shares, self._deviations, strict=True):
                step = step + deviations[name] * (share / math.sqrt(count - 1))
            drawn[name] = self.mean[name] + step * (scale / math.sqrt(2))
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """The moments and the deviations."""
        return {
            "visits": self.visits,
            "mean": dict(self.mean),
            "squares": dict(self._squares),
            "deviations": [dict(deviations) for deviations in self._deviations],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.visits, self.mean, self._squares = state["visits"], dict(state["mean"]), dict(state["squares"])
        self._deviations = [dict(deviations) for deviations in state["deviations"]]
