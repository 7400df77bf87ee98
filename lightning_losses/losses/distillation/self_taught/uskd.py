"""Universal self-knowledge distillation: soft labels made from the student itself, without a teacher."""

from dataclasses import field
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import (
    finite_logarithms,
    full_precision,
    log_probabilities,
    log_probabilities_within,
)
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import classification_rows, labelled_rows, one_hot, required_target
from lightning_losses.numerics.settings import Bound, Weight

RankMode = Literal["reference", "probability"]

# The authors add it to the two normalisers of the rank score.
_RANK_EPS = 1e-6


def zipf_labels(
    log_s: Tensor, log_w: Tensor, is_target: Bool[Tensor, "*rows classes"], rank_mode: RankMode
) -> Float[Tensor, "*rows classes"]:
    """1 / rank for every class but the targets and the masked ones, normalised; ranks count all classes."""
    s, w = (log_s if rank_mode == "reference" else log_s.exp()), log_w.exp()
    score = w / (1 - (w * is_target).sum(dim=-1, keepdim=True) + _RANK_EPS) + s / (
        1 - s.masked_fill(~is_target, 0.0).sum(dim=-1, keepdim=True) + _RANK_EPS
    )
    masked = torch.isneginf(log_s)
    order = score.masked_fill(masked, -torch.inf).argsort(dim=-1, descending=True)
    ranks = torch.arange(1, s.shape[-1] + 1, device=s.device, dtype=s.dtype).expand_as(s)
    zipf = torch.zeros_like(s).scatter(-1, order, 1 / ranks).masked_fill(is_target | masked, 0.0)
    total = zipf.sum(dim=-1, keepdim=True)
    return zipf / torch.where(total > 0, total, 1.0)


class USKD(RowLoss):
    """Universal self-knowledge distillation: soft labels made from the student itself, without a teacher.

    ``α (-p log s_y) + β (-sum_{k≠y} ẑ_k log ŝ_k) + μ CE(q, w)`` per sample, where

    - ``p = s_y² + 1 - mean over the batch of s_y²`` smooths the target by how well the sample fits;
    - ŝ is the softmax over the classes without the target, ẑ Zipf's law over them: 1 / rank, ranked by s and w
      together;
    - ``w = softmax(linear(features))`` is a weak head on an inner stage, which belongs to this loss and learns q, the
      label smoothed by 0.1.

    p and ẑ carry no gradient; the features and the head learn from the last term alone. With mixed labels the two
    largest classes take the place of y.

    Args:
        num_classes: C, at least 2.
        feature_dim: D, the width of the tapped stage; None takes it from the first batch.
        alpha: α, at least 0.
        beta: β, at least 0.
        mu: μ, at least 0.
        rank_mode: "reference" ranks by ``w / (1 - w_y) + log s / (1 - log s_y)``, as in the authors' code, which gave
            their results; "probability" ranks by ``w / (1 - w_y) + s / (1 - s_y)``, as in their paper.
        reduction: "mean" over the kept samples, or "sum"; a sample's value depends on its batch, so there is no "none".

    Shapes:
        logits: [..., C]; features: [..., D]; target: [...] class indices or [..., C] mixed labels.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; weights below 0; an unknown rank_mode or reduction.

    Source:
        Yang, Zeng, Li, Zhang, Yuan, Li, 2023, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified
        Approach with Normalized Loss and Customized Soft Labels", arXiv:2303.13005, and its code yzd-v/cls_KD.
        Defaults are those for ImageNet; for CIFAR-100 the authors take α = β = μ = 0.1. Add it to cross-entropy of
        weight 1. The authors take the mean over one process's batch; here it is over the batch of all processes. A
        one-hot row among mixed labels drops one class here, two in the code.

    Example:
        >>> loss = USKD(num_classes=3, feature_dim=2, mu=0.0)
        >>> logits, features, target = torch.zeros(2, 3), torch.zeros(2, 2), torch.tensor([0, 1])
        >>> round(loss(logits, features, target).item(), 4)  # log 3 + 0.1 log 2
        1.1679
    """

    batch_coupled = True
    status = "confirmed"
    evidence = "yzd-v/cls_KD"

    num_classes: Annotated[int, Bound(least=2)]
    feature_dim: int | None = None
    alpha: Weight = 1.0
    beta: Weight = 0.1
    mu: Weight = 0.005
    rank_mode: RankMode = "reference"
    reduction: Literal["mean", "sum"] = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        dim, classes = self.feature_dim, self.num_classes
        self.head = nn.LazyLinear(classes) if dim is None else nn.Linear(dim, classes)

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        features: Float[Tensor, "*rows dim"],
        target: Shaped[Tensor, "..."],
    ) -> Float[Tensor, ""]:
        """Check, evaluate and reduce; see the class."""
        for name, tensor in (("logits", logits), ("features", features)):
            check_floating(self._identifier, name, tensor)
        target = required_target(self._identifier, target)
        if (
            features.ndim < 2
            or features.shape[-1] == 0
            or features.shape[:-1] != logits.shape[:-1]
            or logits.shape[-1] != self.num_classes
        ):
            raise ValueError(
                f"{self._identifier}: features of shape {list(features.shape)} and logits of shape "
                f"{list(logits.shape)} came; give [..., D] and [..., {self.num_classes}] with the same "
                "samples, maps pooled to vectors."
            )
        kept = labelled_rows(target, self.ignore_index)
        if kept.shape == features.shape[:-1]:
            # An ignored row may hold NaN; as zeros it adds nothing to the head's gradient.
            features = features.masked_fill(~kept.unsqueeze(-1), 0.0)
        return self.with_weak_logits(logits, self.head(features.to(self.head.weight.dtype)), target)

    def with_weak_logits(
        self,
        logits: Float[Tensor, "*rows classes"],
        weak_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
    ) -> Float[Tensor, ""]:
        """The loss, given the weak head's logits."""
        rows = classification_rows(self._identifier, logits, target, self.ignore_index)
        target = required_target(self._identifier, rows.target)
        classes = logits.shape[-1]
        log_s = log_probabilities(rows.logits)
        weak = full_precision(weak_logits).to(log_s.dtype)
        if rows.kept is not None:
            weak = weak.masked_fill(~rows.kept.unsqueeze(-1), 0.0)
        log_w = log_probabilities(weak)
        if target.is_floating_point():
            label = target
            share, named = label.topk(2, dim=-1)
        else:
            label = one_hot(target, log_s)
            share, named = torch.ones_like(log_s[..., :1]), target.unsqueeze(-1)
        # A one-hot row among mixed labels has one class: its second largest has share 0.
        real = share > 0
        is_target = torch.zeros_like(log_s, dtype=torch.bool).scatter(-1, named, real)

        # Labels are constants; no_grad would not stop forward-mode derivatives.
        constant_s, constant_w = log_s.detach(), log_w.detach()
        likelihood = constant_s.gather(-1, named).exp().square()
        counted = real if rows.kept is None else real & rows.kept.unsqueeze(-1)
        batch = tuple(range(likelihood.ndim - 1))
        mean = (likelihood * counted).sum(batch) / counted.sum(batch).clamp(min=1)
        weight = (likelihood + share.detach() - mean) * real
        zipf = zipf_labels(constant_s, constant_w, is_target, self.rank_mode)
        log_others = log_probabilities_within(rows.logits.masked_fill(is_target, -torch.inf))
        target_term = -(weight * log_s.gather(-1, named).masked_fill(~real, 0.0)).sum(dim=-1)
        others = -(zipf * finite_logarithms(log_others)).sum(dim=-1)
        weak_term = -((0.9 * label + 0.1 / classes) * log_w).sum(dim=-1)
        return reduce(self.alpha * target_term + self.beta * others + self.mu * weak_term, self.reduction, rows.kept)
