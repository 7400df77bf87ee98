"""Bias loss: samples whose features vary more weigh more."""

from dataclasses import field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss, index_rows
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.settings import NonNegative


class BiasLoss(RowLoss):
    """Bias loss: samples whose features vary more weigh more.

    ``(exp(α v_i) - β) CE_i``, with v_i the variance of the sample's feature map over all its entries, without gradient,
    less the smallest one, and divided by the batch's range. "local" takes the smallest of the batch, so that v is in
    [0, 1]; "global" takes that of all steps so far, so that v may exceed 1; `ObjectiveMixin` lets the loss update it
    after each step. Where all variances are equal, v is 0.

    Args:
        alpha: α, at least 0.
        beta: β, at least 0.
        normalization: "global" or "local".

    Shapes:
        logits: [B, C]; target: [B] class indices; feature_maps: [B, ...] with two entries or more.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Source:
        Abrahamyan, Ziatchin, Chen, Deligiannis, 2021, "Bias Loss for Mobile Neural Networks", arXiv:2107.11170, and
        their code, lusinlu/bias-loss-skipblocknet, which divides by 0 where all variances are equal.

    Example:
        >>> maps = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
        >>> BiasLoss(reduction="none")(torch.zeros(2, 2), torch.tensor([0, 1]), maps)
        tensor([0.4852, 0.7277])
    """

    status = "confirmed"
    evidence = "lusinlu/bias-loss-skipblocknet"
    batch_coupled = True

    alpha: NonNegative = 0.3
    beta: NonNegative = 0.3
    normalization: Literal["global", "local"] = "global"
    smallest: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.register_buffer("smallest", torch.tensor(torch.inf))

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"],
        feature_maps: Float[Tensor, "batch ..."],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        given = index_rows(self._identifier, logits, target, self.ignore_index)
        variance = self._variance(feature_maps, target)
        kept = torch.ones_like(target, dtype=torch.bool) if given.kept is None else given.kept
        value = cross_entropy(log_probabilities(given.logits), given.target)
        if len(variance) == 0:
            return reduce(value, self.reduction, given.kept)
        least = variance.masked_fill(~kept, torch.inf).amin()
        width = variance.masked_fill(~kept, -torch.inf).amax() - least
        if self.normalization == "global":
            least = torch.minimum(least, self.smallest.to(least))
        # Nothing kept makes the width -inf.
        normalised = torch.where(width == 0, 0.0, (variance - least) / torch.where(width == 0, 1.0, width))
        weight = (self.alpha * normalised.masked_fill(~kept, 0.0)).exp() - self.beta
        return reduce(weight.to(value.dtype) * value, self.reduction, given.kept)

    @torch.no_grad()
    def after_step(self, **tensors: Any) -> None:
        """Remember the smallest variance so far."""
        target = tensors["target"]
        variance = self._variance(tensors["feature_maps"], target)
        # A step whose features are not finite, which may be skipped, is not remembered.
        kept = (target != self.ignore_index) & variance.isfinite()
        if len(variance):
            least = variance.masked_fill(~kept, torch.inf).amin()
            self.smallest.copy_(torch.minimum(self.smallest, least.to(self.smallest)))

    def _variance(self, feature_maps: Float[Tensor, "batch ..."], target: Tensor) -> Float[Tensor, " batch"]:
        check_floating(self._identifier, "feature_maps", feature_maps)
        if feature_maps.ndim < 2 or len(feature_maps) != len(target) or target.ndim != 1:
            raise ValueError(
                f"{self._identifier}: feature_maps of shape {list(feature_maps.shape)} came with a target of shape "
                f"{list(target.shape)}; give [B, ...] and [B] of the same samples."
            )
        if feature_maps[:1].numel() == 1:
            raise ValueError(
                f"{self._identifier}: feature_maps of shape {list(feature_maps.shape)} came; give two entries or more "
                "for each sample."
            )
        features = full_precision(feature_maps.detach()).flatten(1)
        return features.var(dim=1) if len(features) else features.sum(dim=1)
