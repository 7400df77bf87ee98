"""Soft entropy regularisation: the mean prediction is spread over old and new classes, and within each group."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.divergences import entropy
from lightning_losses.numerics.probabilities import (
    full_precision,
    log_probabilities,
    log_probabilities_within,
    log_total,
)
from lightning_losses.numerics.rows import classification_rows
from lightning_losses.numerics.settings import Count, Temperature, Weight


class EntropyGaps(NamedTuple):
    """How far the entropy of the mean prediction is from its maximum: between the groups, and within each.

    Attributes:
        groups: of old against new classes.
        old: among the old classes; 0 where they have no probability.
        new: likewise.
    """

    groups: Float[Tensor, ""]
    old: Float[Tensor, ""]
    new: Float[Tensor, ""]


class SoftEntropyRegularization(Loss):
    """Soft entropy regularisation: the mean prediction is spread over old and new classes, and within each group.

    ``w_g (log 2 - H(P_old, P_new)) + w_o (log K_old - H(p_old)) + w_n (log K_new - H(p_new))`` of the mean of
    softmax(z / τ) over the batch and its views: P are the sums of the groups, p the distributions within them. It is 0
    where all three are uniform, and keeps a network that learns new classes without labels from giving all of them to
    old ones. Batch-coupled.

    Args:
        old_classes: K_old, how many of the first classes are old; at least 1, fewer than there are.
        temperature: τ, above 0; small, since the authors' logits are cosines.
        group_weight: w_g, at least 0.
        old_weight: w_o, at least 0.
        new_weight: w_n, at least 0.

    Shapes:
        logits: [..., C]; logits_b (optional): the same of a second view.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; no new class.

    Source:
        Ma, Zhu, Zhong, Zhang, Liu, 2024, "Happy: A Debiased Learning Framework for Continual Generalized Category
        Discovery", arXiv:2410.06535, and its code mashijie1028/Happy-CGCD. This takes it in log-space, and counts a
        group without probability as 0, where the code has no number.

    Example:
        >>> loss = SoftEntropyRegularization(old_classes=2, temperature=1.0)
        >>> round(loss(torch.zeros(4, 3)).item(), 4), round(loss(torch.tensor([[99.0, 0.0, 0.0]])).item(), 4)
        (0.1133, 2.0794)
    """

    status = "confirmed"
    evidence = "mashijie1028/Happy-CGCD"

    batch_coupled = True

    old_classes: Count
    temperature: Temperature = 0.1
    group_weight: Weight = 2.0
    old_weight: Weight = 1.0
    new_weight: Weight = 1.0

    def forward(
        self, logits: Float[Tensor, "*rows classes"], logits_b: Float[Tensor, "*rows classes"] | None = None
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; see the class."""
        views = [classification_rows(self._identifier, logits, None).logits]
        if logits_b is not None:
            check_floating(self._identifier, "logits_b", logits_b)
            if logits_b.shape != logits.shape:
                raise ValueError(
                    f"{self._identifier}: logits_b of shape {list(logits_b.shape)} came with logits of shape "
                    f"{list(logits.shape)}; give both the same shape."
                )
            views.append(full_precision(logits_b).to(views[0].dtype))
        rows = torch.cat([view.reshape(-1, view.shape[-1]) for view in views])
        if not 0 < self.old_classes < rows.shape[1]:
            raise ValueError(
                f"{self._identifier}: old_classes={self.old_classes} came with {rows.shape[1]} classes; give fewer, so "
                "that there are new ones."
            )
        if len(rows) == 0:
            return rows.sum() * 0.0
        gaps = entropy_gaps(log_probabilities(rows, self.temperature), self.old_classes)
        return self.group_weight * gaps.groups + self.old_weight * gaps.old + self.new_weight * gaps.new


def entropy_gaps(log_p: Float[Tensor, "rows classes"], old_classes: int) -> EntropyGaps:
    """The gaps of the mean of these distributions, whose first classes are old.

    Example:
        >>> [round(gap.item(), 4) for gap in entropy_gaps(torch.tensor([[0.5, 0.25, 0.25]]).log(), 1)]
        [0.0, 0.0, 0.0]
    """
    mean = log_total(log_p.T).squeeze(-1) - math.log(len(log_p))
    parts = mean[:old_classes], mean[old_classes:]
    shares = [log_total(part) for part in parts]
    old, new = (
        (math.log(len(part)) - entropy(log_probabilities_within(part))).masked_fill(torch.isneginf(share[0]), 0.0)
        for part, share in zip(parts, shares, strict=True)
    )
    return EntropyGaps(math.log(2) - entropy(torch.cat(shares)), old, new)
