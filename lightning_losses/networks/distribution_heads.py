"""Heads that turn features into what is predicted of a number, under the names that losses of regressions take."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.networks.calls import call
from lightning_losses.numerics.checks import check_count
from lightning_losses.numerics.probabilities import full_precision

# Softplus goes to 0 from below -20 on; likelihoods need more than 0.
_LEAST = 1e-6


class DistributionHead(nn.Module):
    """A linear layer whose numbers become a distribution of each of D targets, by the names of the glossary.

    Args:
        num_features: the width of the features.
        numbers: how many numbers the layer gives for each target.
        targets: D; 1 stands for targets [B] without a dimension of their own.
    """

    def __init__(self, num_features: int, numbers: int, targets: int = 1) -> None:
        super().__init__()
        for name, value in (("num_features", num_features), ("numbers", numbers), ("targets", targets)):
            check_count(type(self).__name__, name, value)
        self.targets, self.numbers = targets, numbers
        self.linear = nn.Linear(num_features, targets * numbers)

    def forward(self, features: Float[Tensor, "batch features"]) -> dict[str, Tensor]:
        """What is predicted, by name."""
        raw = self.linear(features).unflatten(-1, (self.targets, self.numbers))
        return self.distribution(raw.squeeze(-2) if self.targets == 1 else raw)

    @abstractmethod
    def distribution(self, raw: Float[Tensor, "*values numbers"]) -> dict[str, Tensor]:
        """What the layer's numbers say of each target."""


class MeanHead(DistributionHead):
    """`mean` alone, for squared and absolute errors.

    Example:
        >>> MeanHead(4)(torch.zeros(2, 4))["mean"].shape
        torch.Size([2])
    """

    def __init__(self, num_features: int, targets: int = 1) -> None:
        super().__init__(num_features, 1, targets)

    def distribution(self, raw: Float[Tensor, "*values 1"]) -> dict[str, Tensor]:
        """The mean."""
        return {"mean": raw.squeeze(-1)}


class GaussianHead(DistributionHead):
    """`mean`, `variance` and `standard_deviation` of a Gaussian; the deviation is a softplus, at least 1e-6.

    Example:
        >>> sorted(GaussianHead(4, targets=3)(torch.zeros(2, 4)))
        ['mean', 'standard_deviation', 'variance']
    """

    def __init__(self, num_features: int, targets: int = 1) -> None:
        super().__init__(num_features, 2, targets)

    def distribution(self, raw: Float[Tensor, "*values 2"]) -> dict[str, Tensor]:
        """Mean and spread."""
        mean, spread = raw.unbind(dim=-1)
        deviation = _positive(spread)
        return {"mean": mean, "variance": deviation.square(), "standard_deviation": deviation}


class QuantileHead(DistributionHead):
    """`quantiles`, one for each level, in no order that would be kept by force.

    Example:
        >>> QuantileHead(4, levels=3)(torch.zeros(2, 4))["quantiles"].shape
        torch.Size([2, 3])
    """

    def __init__(self, num_features: int, levels: int, targets: int = 1) -> None:
        super().__init__(num_features, levels, targets)

    def distribution(self, raw: Float[Tensor, "*values levels"]) -> dict[str, Tensor]:
        """The quantiles."""
        return {"quantiles": raw}


class EnsembleHead(DistributionHead):
    """`ensemble`, the predictions of M members that share the features.

    Example:
        >>> EnsembleHead(4, members=8, targets=3)(torch.zeros(2, 4))["ensemble"].shape
        torch.Size([2, 3, 8])
    """

    def __init__(self, num_features: int, members: int = 16, targets: int = 1) -> None:
        super().__init__(num_features, members, targets)

    def distribution(self, raw: Float[Tensor, "*values members"]) -> dict[str, Tensor]:
        """The members' predictions."""
        return {"ensemble": raw}


class EvidentialHead(DistributionHead):
    """`evidential`: γ, and by softplus ν and β above 0 and α above 1.

    Example:
        >>> bool((EvidentialHead(4)(torch.zeros(2, 4))["evidential"][:, 2] > 1).all())
        True
    """

    def __init__(self, num_features: int, targets: int = 1) -> None:
        super().__init__(num_features, 4, targets)

    def distribution(self, raw: Float[Tensor, "*values 4"]) -> dict[str, Tensor]:
        """The parameters of a normal-inverse-gamma distribution."""
        gamma, nu, alpha, beta = raw.unbind(dim=-1)
        return {"evidential": torch.stack([gamma, _positive(nu), 1 + _positive(alpha), _positive(beta)], dim=-1)}


class BinsHead(DistributionHead):
    """`logits` of the bins of a range, for losses such as `HLGauss`, and as `mean` what the loss decodes of them.

    Args:
        num_features: the width of the features.
        decode: makes a number of its logits [..., bins], such as the method of a loss.
        bins: how many there are.
        targets: D; 1 stands for targets [B] without a dimension of their own.

    Example:
        >>> sorted(BinsHead(4, lambda logits: logits.softmax(-1)[..., 0])(torch.zeros(2, 4)))
        ['logits', 'mean']
    """

    def __init__(self, num_features: int, decode: Callable[[Tensor], Tensor], bins: int = 51, targets: int = 1) -> None:
        super().__init__(num_features, bins, targets)
        self.decode = decode

    def distribution(self, raw: Float[Tensor, "*values bins"]) -> dict[str, Tensor]:
        """The logits, and the number that they stand for."""
        return {"logits": raw, "mean": self.decode(raw)}


class WithHead(nn.Module):
    """A network of features, and the head on it.

    Args:
        network: maps inputs to features [B, F].
        head: maps features to what is predicted, by name.
        with_features: whether the features are given beside that, as `features`.

    Example:
        >>> sorted(WithHead(nn.Linear(4, 8), GaussianHead(8))(torch.zeros(2, 4)))
        ['mean', 'standard_deviation', 'variance']
    """

    def __init__(self, network: nn.Module, head: nn.Module, *, with_features: bool = False) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.with_features = with_features

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """What is predicted, by name."""
        features = call(self.network, inputs)
        return {**self.head(features), **({"features": features} if self.with_features else {})}


def _positive(raw: Float[Tensor, "*values"]) -> Float[Tensor, "*values"]:
    # In full precision: 1 + 1e-6 is 1 in half precision.
    return F.softplus(full_precision(raw)) + _LEAST
