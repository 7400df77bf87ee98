"""LDR-KL: a margin loss that is robust over how the classes are weighed."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.classification.crammer_singer import raised_rivals
from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import NonNegative, Temperature

Normalize = Literal["none", "softplus_mean", "l1_mean"]


class LDRKL(ClassificationLoss):
    """LDR-KL: a margin loss that is robust over how the classes are weighed.

    ``λ log( (1/C) sum_k exp((z_k - z_y + c [k != y]) / λ) )``: the largest mean of the margins' violations over weights
    of the classes, less λ times the weights' divergence from uniform ones. Towards λ = 0 only the worst class counts,
    as in `CrammerSinger`; with λ = 1 and c = 0 it is cross-entropy less log C; towards infinity it is the mean over all
    classes, which symmetric noise does not bias. In between, a large λ is more robust, a small one learns faster.

    Args:
        margin: c, at least 0.
        temperature: λ, above 0.
        normalize: what is done to each row of logits first: "none"; "softplus_mean", softplus, then division by the
            mean; "l1_mean", division by the mean of the absolute values. With "none" the logits should be bounded.

    Shapes:
        logits: [..., C]; target: [...] class indices. A class that is masked by -inf is none of the C.

    Returns:
        A scalar, or [...] without reduction; it may be below 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a setting outside of its range.

    Source:
        Zhu, Ying, Yang, 2023, "Label Distributionally Robust Losses for Multi-class Classification: Consistency,
        Robustness and Adaptivity", arXiv:2112.14869, and its code Optimization-AI/ICML2023_LDR, whose defaults are
        c = 0.1, λ = 10, "softplus_mean"; the paper normalises nothing.

    Example:
        >>> round(LDRKL(margin=0.0, temperature=1.0)(torch.tensor([[0.0, 2.0]]), torch.tensor([0])).item(), 4)
        1.4338
    """

    status = "confirmed"
    evidence = "Optimization-AI/ICML2023_LDR"
    soft_targets = False

    margin: NonNegative = 0.1
    temperature: Temperature = 10.0
    normalize: Normalize = "none"

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        scores = normalized_scores(given.logits, self.normalize)
        return robust_violation(scores, given.target, self.margin, self.temperature)


def robust_violation(
    scores: Float[Tensor, "*rows classes"],
    target: Int[Tensor, "*rows"],
    margin: float,
    temperature: float | Float[Tensor, "*rows"],
) -> Float[Tensor, "*rows"]:
    """``λ log( (1/C) sum_k exp((z_k - z_y + c [k != y]) / λ) )`` over the classes that are not masked."""
    absent = torch.isneginf(scores)
    raised = raised_rivals(scores, target, margin)
    largest = raised.detach().amax(dim=-1, keepdim=True)
    divisor = temperature.unsqueeze(-1) if isinstance(temperature, Tensor) else temperature
    # Exact for a large λ, where the mean of exponentials is nearly 1, and for a small one.
    deviation = torch.expm1((raised - largest) / divisor).masked_fill(absent, 0.0)
    mean = deviation.sum(dim=-1) / (~absent).sum(dim=-1)
    return largest.squeeze(-1) - pick(scores, target) + temperature * torch.log1p(mean)


def normalized_scores(logits: Float[Tensor, "*rows classes"], normalize: Normalize) -> Float[Tensor, "*rows classes"]:
    """Each row divided by its mean size, or what `LDRKL` says; a masked class stays masked.

    Example:
        >>> normalized_scores(torch.tensor([[3.0, -1.0, -torch.inf]]), "l1_mean")
        tensor([[ 1.5000, -0.5000,    -inf]])
    """
    if normalize == "none":
        return logits
    absent = torch.isneginf(logits)
    present = logits.masked_fill(absent, 0.0)
    values = torch.nn.functional.softplus(present) if normalize == "softplus_mean" else present
    mean = values.abs().masked_fill(absent, 0.0).sum(dim=-1, keepdim=True) / (~absent).sum(dim=-1, keepdim=True)
    # A row of zeros stays one.
    return (values / mean.masked_fill(mean == 0, 1.0)).masked_fill(absent, -torch.inf)
