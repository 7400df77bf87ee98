"""Universal self-knowledge distillation: soft labels made from the student itself, without a teacher."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_choice, check_floating, check_number
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import classification_rows

RankMode = Literal["reference", "probability"]
_Reduction = Literal["mean", "sum"]

# What the authors add to the two normalisers of the rank score.
_RANK_EPS = 1e-6


def uskd_loss(
    logits: Float[Tensor, "*rows classes"],
    weak_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    alpha: float = 1.0,
    beta: float = 0.1,
    mu: float = 0.005,
    rank_mode: RankMode = "reference",
    ignore_index: int = -100,
    reduction: _Reduction = "mean",
) -> Float[Tensor, ""]:
    """Teacher-free self-distillation, given the weak head's logits; see `USKD`."""
    _check_options(alpha, beta, mu, rank_mode, reduction)
    rows = classification_rows("uskd", logits, target, ignore_index)
    check_floating("uskd", "weak_logits", weak_logits)
    if weak_logits.shape != logits.shape or logits.shape[-1] < 2:
        raise ValueError(
            f"uskd: weak_logits of shape {list(weak_logits.shape)} came with logits of shape "
            f"{list(logits.shape)}; give both the same shape, with at least 2 classes."
        )
    assert rows.target is not None
    classes = logits.shape[-1]
    log_s = log_probabilities(rows.logits)
    weak = full_precision(weak_logits).to(log_s.dtype)
    if rows.kept is not None:
        weak = weak.masked_fill(~rows.kept.unsqueeze(-1), 0.0)
    log_w = log_probabilities(weak)
    if rows.target.is_floating_point():
        label, value = rows.target, rows.target.topk(2, dim=-1)
        share, named = value.values, value.indices
    else:
        label = F.one_hot(rows.target, classes).to(log_s.dtype)
        share, named = torch.ones_like(log_s[..., :1]), rows.target.unsqueeze(-1)
    # A one-hot row among mixed labels names one class: the second of its two largest has share 0.
    real = share > 0
    is_target = torch.zeros_like(log_s, dtype=torch.bool).scatter(-1, named, real)

    with torch.no_grad():
        likelihood = log_s.gather(-1, named).exp().square()
        counted = real if rows.kept is None else real & rows.kept.unsqueeze(-1)
        batch = tuple(range(likelihood.ndim - 1))
        mean = (likelihood * counted).sum(batch) / counted.sum(batch).clamp(min=1)
        weight = (likelihood + share - mean) * real
        zipf = _zipf_labels(log_s, log_w, is_target, rank_mode)
    log_others = log_probabilities(rows.logits.masked_fill(is_target, -torch.inf))
    target_term = -(weight * log_s.gather(-1, named).masked_fill(~real, 0.0)).sum(dim=-1)
    others = -(zipf * log_others.masked_fill(~torch.isfinite(log_others), 0.0)).sum(dim=-1)
    smoothed = 0.9 * label + 0.1 / classes
    weak_term = -(smoothed * log_w).sum(dim=-1)
    return reduce(alpha * target_term + beta * others + mu * weak_term, reduction, rows.kept)


def _zipf_labels(
    log_s: Tensor, log_w: Tensor, is_target: Bool[Tensor, "*rows classes"], rank_mode: RankMode
) -> Float[Tensor, "*rows classes"]:
    """1 / rank for every class but the targets, normalised; ranks count all classes."""
    s, w = (log_s if rank_mode == "reference" else log_s.exp()), log_w.exp()
    score = w / (1 - (w * is_target).sum(dim=-1, keepdim=True) + _RANK_EPS) + s / (
        1 - s.masked_fill(~is_target, 0.0).sum(dim=-1, keepdim=True) + _RANK_EPS
    )
    order = score.argsort(dim=-1, descending=True)
    ranks = torch.arange(1, s.shape[-1] + 1, device=s.device, dtype=s.dtype).expand_as(s)
    zipf = torch.zeros_like(s).scatter(-1, order, 1 / ranks).masked_fill(is_target, 0.0)
    total = zipf.sum(dim=-1, keepdim=True)
    return zipf / torch.where(total > 0, total, 1.0)


def _check_options(alpha: float, beta: float, mu: float, rank_mode: str, reduction: str) -> None:
    for name, weight in (("alpha", alpha), ("beta", beta), ("mu", mu)):
        check_number("uskd", name, weight, least=0)
    check_choice("uskd", "rank_mode", rank_mode, RankMode)
    check_choice("uskd", "reduction", reduction, _Reduction)


class USKD(Loss):
    """Universal self-knowledge distillation: soft labels made from the student itself, without a teacher.

    ``α (-p log s_y) + β (-sum_{k≠y} ẑ_k log ŝ_k) + μ CE(q, w)`` per sample, where

    - ``p = s_y² + 1 - mean over the batch of s_y²`` smooths the target by how well the sample fits;
    - ŝ is the softmax over the classes but the target, ẑ Zipf's law over them: 1 / rank, where s and w rank together;
    - ``w = softmax(linear(features))`` is a weak head on an inner stage, which this loss owns and trains on q, the
      label smoothed by 0.1.

    p and ẑ carry no gradient; the features and the head learn from the last term alone. With mixed labels the two
    largest classes take the place of y.

    Args:
        num_classes: C, at least 2.
        feature_dim: D of the tapped stage; None takes it from the first batch.
        alpha: α, at least 0.
        beta: β, at least 0.
        mu: μ, at least 0.
        rank_mode: "reference" ranks by ``w / (1 - w_y) + log s / (1 - log s_y)``, as the authors' code does and with
            which their results came; "probability" by ``w / (1 - w_y) + s / (1 - s_y)``, as their paper says.
        ignore_index: samples with this target count for nothing, not in the batch's mean either.
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
        Defaults are those for ImageNet; for CIFAR-100 the authors take α = β = μ = 0.1. Added to cross-entropy of
        weight 1. The authors' batch is a process's own; here it is the batch of all processes. A one-hot row among
        mixed labels drops one class here, two in the code.

    Example:
        >>> loss = USKD(num_classes=3, feature_dim=2, mu=0.0)
        >>> logits, features, target = torch.zeros(2, 3), torch.zeros(2, 2), torch.tensor([0, 1])
        >>> round(loss(logits, features, target).item(), 4)  # log 3 + 0.1 log 2
        1.1679
    """

    batch_coupled = True
    status = "confirmed"
    evidence = "yzd-v/cls_KD"

    def __init__(
        self,
        num_classes: int,
        feature_dim: int | None = None,
        alpha: float = 1.0,
        beta: float = 0.1,
        mu: float = 0.005,
        rank_mode: RankMode = "reference",
        ignore_index: int = -100,
        reduction: _Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("uskd", "num_classes", num_classes, least=2)
        _check_options(alpha, beta, mu, rank_mode, reduction)
        self.num_classes = num_classes
        self.alpha = alpha
        self.beta = beta
        self.mu = mu
        self.rank_mode: RankMode = rank_mode
        self.ignore_index = ignore_index
        self.reduction: _Reduction = reduction
        self.head = nn.LazyLinear(num_classes) if feature_dim is None else nn.Linear(feature_dim, num_classes)

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        features: Float[Tensor, "*rows dim"],
        target: Shaped[Tensor, "..."],
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        check_floating("uskd", "features", features)
        if features.ndim < 2 or features.shape[:-1] != logits.shape[:-1] or logits.shape[-1] != self.num_classes:
            raise ValueError(
                f"uskd: features of shape {list(features.shape)} and logits of shape "
                f"{list(logits.shape)} came; give [..., D] and [..., {self.num_classes}] with the same "
                "samples, maps pooled to vectors."
            )
        if not target.is_floating_point() and target.shape == features.shape[:-1]:
            # An ignored row may hold anything; as zeros it adds nothing to the head's gradient.
            features = features.masked_fill((target == self.ignore_index).unsqueeze(-1), 0.0)
        return uskd_loss(
            logits,
            self.head(features.to(self.head.weight.dtype)),
            target,
            alpha=self.alpha,
            beta=self.beta,
            mu=self.mu,
            rank_mode=self.rank_mode,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
