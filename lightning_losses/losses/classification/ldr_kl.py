"""LDR-KL: a margin loss that is robust over how the classes are weighed."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.classification.crammer_singer import raised_rivals
from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import NonNegative, Temperature


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
    normalize: Literal["none", "softplus_mean", "l1_mean"] = "none"

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        absent = torch.isneginf(given.logits)
        logits = self._normalized(given.logits, absent)
        own = pick(logits, given.target)
        raised = raised_rivals(logits, given.target, self.margin)
        largest = raised.detach().amax(dim=-1, keepdim=True)
        # Exact for a large λ, where the mean of exponentials is nearly 1, and for a small one.
        deviation = torch.expm1((raised - largest) / self.temperature).masked_fill(absent, 0.0)
        mean = deviation.sum(dim=-1) / (~absent).sum(dim=-1)
        return largest.squeeze(-1) - own + self.temperature * torch.log1p(mean)

    def _normalized(
        self, logits: Float[Tensor, "*rows classes"], absent: Bool[Tensor, "*rows classes"]
    ) -> Float[Tensor, "*rows classes"]:
        if self.normalize == "none":
            return logits
        present = logits.masked_fill(absent, 0.0)
        values = torch.nn.functional.softplus(present) if self.normalize == "softplus_mean" else present
        mean = values.abs().masked_fill(absent, 0.0).sum(dim=-1, keepdim=True) / (~absent).sum(dim=-1, keepdim=True)
        # A row of zeros stays one.
        return (values / mean.masked_fill(mean == 0, 1.0)).masked_fill(absent, -torch.inf)
