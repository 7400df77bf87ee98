"""A sum of binary cross-entropy, a term of correlated errors and a contrastive one, for many labels."""

from collections.abc import Sequence
from dataclasses import field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.checks import check_embeddings, check_floating
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision, log_probabilities_within
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import LabelRows, label_rows
from lightning_losses.numerics.settings import Temperature, Weight


class HybridMultilabel(RowLoss):
    """A sum of binary cross-entropy, a term of correlated errors and a contrastive one, for many labels.

    ``(1/C) sum_c w_c BCE_c + λ_r e' M e / C² + λ_k S``, for each sample. ``e = p - t`` are the errors of the sigmoids,
    M the absolute correlations of the labels over the batch, 0 on the diagonal. ``S = -sum_j J_j log q_j / sum_j J_j``
    is a contrastive loss over the other samples j: ``q = softmax_j(f·f_j / τ)`` of normalised features, and
    J the Jaccard index of the two samples' labels; it is 0 for a sample that shares no label.

    Args:
        class_weight: [C] w, at least 0; None for 1 each.
        correlation_weight: λ_r, at least 0.
        contrastive_weight: λ_k, at least 0.
        temperature: τ, above 0.

    Shapes:
        logits: [B, C]; multi_hot: [B, C]; features: [B, D].

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; labels or options out of range.

    Source:
        Inspired by losses that join these three terms for multi-label images; the formulas are this library's own, and
        no paper's. Without the correlations, binary cross-entropy and: Khosla et al., 2020, "Supervised Contrastive
        Learning", arXiv:2004.11362, with soft positives.

    Example:
        >>> loss = HybridMultilabel(correlation_weight=0.0, contrastive_weight=0.0)
        >>> round(loss(torch.zeros(2, 3), torch.eye(2, 3), torch.ones(2, 4)).item(), 4)  # log 2
        0.6931
    """

    status = "experimental"
    evidence = "no golden values: its formulas are this library's own"
    batch_coupled = True

    class_weight: Sequence[float] | None = None
    correlation_weight: Weight = 0.1
    contrastive_weight: Weight = 0.1
    temperature: Temperature = 0.1
    label_weight: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        weight = None if self.class_weight is None else torch.as_tensor(list(self.class_weight), dtype=torch.float64)
        if weight is not None and not bool((weight.isfinite() & (weight >= 0)).all()):
            raise ValueError(
                f"{self._identifier}: class_weight={self.class_weight!r} came; give finite numbers of at least 0."
            )
        self.register_buffer("label_weight", weight, persistent=False)

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        multi_hot: Shaped[Tensor, "batch classes"],
        features: Float[Tensor, "batch dim"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        given = label_rows(self._identifier, logits, multi_hot, self.ignore_index)
        check_floating(self._identifier, "features", features)
        if logits.ndim != 2 or features.ndim != 2 or len(features) != len(logits):
            raise ValueError(
                f"{self._identifier}: features of shape {list(features.shape)} came with logits of shape "
                f"{list(logits.shape)}; give [B, D] and [B, C] of the same samples."
            )
        check_embeddings(self._identifier, "features", features)
        features = full_precision(features)
        if given.kept is not None:
            features = features.masked_fill(~given.kept.unsqueeze(-1), 0.0)
        with torch.autocast(features.device.type, enabled=False):
            value = self._errors(given) + self.contrastive_weight * self._contrast(given, features)
        return reduce(value, self.reduction, given.kept)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What reduction "mean" divides by: the rows with a label that is known."""
        return (tensors["multi_hot"] != self.ignore_index).any(dim=-1).sum()

    def _errors(self, given: LabelRows) -> Float[Tensor, " batch"]:
        """Cross-entropy and correlated errors."""
        counted = torch.ones_like(given.logits) if given.counted is None else given.counted.to(given.logits)
        classes, weight = given.logits.shape[-1], counted
        if self.label_weight is not None:
            if len(self.label_weight) != classes:
                raise ValueError(
                    f"{self._identifier}: class_weight of {len(self.label_weight)} came with {classes} labels; give "
                    "one for each."
                )
            weight = counted * self.label_weight.to(counted)
        entropy = F.binary_cross_entropy_with_logits(given.logits, given.multi_hot, weight, reduction="none")
        error = (torch.sigmoid(given.logits) - given.multi_hot) * counted
        together = correlations(given.multi_hot, counted)
        correlated = ((error @ together) * error).sum(dim=-1)
        return entropy.mean(dim=-1) + self.correlation_weight * correlated / classes**2

    def _contrast(self, given: LabelRows, features: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        if len(features) == 0:
            return given.logits.sum(dim=-1)
        unit = unit_rows(features)
        scores = (unit @ unit.T / self.temperature).to(given.logits.dtype)
        others = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        if given.kept is not None:
            others = others & given.kept & given.kept.unsqueeze(-1)
        known = torch.ones_like(given.multi_hot) if given.counted is None else given.counted.to(given.multi_hot)
        share = jaccard(given.multi_hot, known).masked_fill(~others, 0.0)
        log_q = log_probabilities_within(scores.masked_fill(~others, -torch.inf)).masked_fill(~others, 0.0)
        total = share.sum(dim=-1)
        return -(share * log_q).sum(dim=-1) / torch.where(total > 0, total, 1.0)


def correlations(
    multi_hot: Float[Tensor, "batch classes"], known: Float[Tensor, "batch classes"]
) -> Float[Tensor, "classes classes"]:
    """Absolute correlations of labels over the samples that know them, 0 on the diagonal and beside constant ones.

    Example:
        >>> labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(2, 1)
        >>> correlations(labels, torch.ones(4, 2))
        tensor([[0., 1.],
                [1., 0.]])
    """
    centred = (multi_hot - multi_hot.sum(dim=0) / known.sum(dim=0).clamp(min=1)) * known
    # The mean of a label that is constant, but neither 0 nor 1, is rounded.
    rounding = 4 * torch.finfo(centred.dtype).eps * multi_hot.norm(dim=0)
    centred = centred.masked_fill(centred.norm(dim=0) <= rounding, 0.0)
    covariance = centred.T @ centred
    deviation = covariance.diagonal().sqrt()
    scale = torch.outer(deviation, deviation)
    together = (covariance / torch.where(scale > 0, scale, 1.0)).abs()
    return together - torch.diag(together.diagonal())


def jaccard(
    multi_hot: Float[Tensor, "batch classes"], known: Float[Tensor, "batch classes"]
) -> Float[Tensor, "batch batch"]:
    """How much of the labels of two samples, as far as both are known, they share; 0 where neither has any.

    Example:
        >>> jaccard(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.ones(2, 2))
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])
    """
    own = multi_hot @ known.T
    both = multi_hot @ multi_hot.T
    either = own + own.T - both
    return both / torch.where(either > 0, either, 1.0)
