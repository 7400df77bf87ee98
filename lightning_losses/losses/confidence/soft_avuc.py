"""Soft accuracy versus uncertainty calibration: AvUC with soft certainty."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.confidence import predictions
from lightning_losses.numerics.checks import check_number, check_temperature

_MIXED = 1e-5
_EDGE = 1e-6


def soft_avuc_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    threshold: float = 0.5,
    temperature: float = 0.1,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Soft accuracy versus uncertainty calibration; see `SoftAvUC`."""
    check_temperature("soft_avuc", temperature)
    check_number("soft_avuc", "threshold", threshold, above=0, most=1 - _EDGE)
    rows = predictions("soft_avuc", logits, target, ignore_index)
    classes = rows.log_p.shape[-1]
    if classes < 2:
        raise ValueError("soft_avuc: logits of 1 class came, which are never uncertain; give at least 2.")
    mixed = (1 - _MIXED) * rows.log_p.exp() + _MIXED / classes
    uncertainty = -(mixed * mixed.log()).sum(dim=-1)
    relative = (uncertainty / math.log(classes)).clamp(_EDGE, 1 - _EDGE)
    uncertain = torch.sigmoid((torch.logit(relative) - math.log(threshold / (1 - threshold))) / temperature)
    right, wrong, doubt = rows.correct * rows.kept, (1 - rows.correct) * rows.kept, torch.tanh(uncertainty)
    good = (right * (1 - uncertain) * (1 - doubt) + wrong * uncertain * doubt).sum()
    bad = (right * uncertain * doubt + wrong * (1 - uncertain) * (1 - doubt)).sum()
    return torch.log1p(bad / good.clamp(min=_MIXED))


class SoftAvUC(Loss):
    """Soft accuracy versus uncertainty calibration: be certain when right, uncertain when wrong, without a hard edge.

    ``log(1 + (n_AU + n_IC) / (n_AC + n_IU))`` over accurate (A) and inaccurate (I), certain (C) and uncertain (U)
    predictions. A prediction of entropy H is uncertain to the degree
    ``q = sigmoid((logit(H / log C) - logit κ) / T)``, and counts ``q tanh H`` among the uncertain and
    ``(1 - q) (1 - tanh H)`` among the certain ones. To be added to cross-entropy. Batch-coupled.

    Args:
        threshold: κ, the relative entropy in (0, 1) at which a prediction is half uncertain.
        temperature: T, above 0; the softness of the edge.
        ignore_index: samples with this target count for nothing.

    Shapes:
        logits: [..., C] with at least 2 classes; target: [...] class indices.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a threshold or temperature out of
            range.

    Source:
        Karandikar et al., 2021, "Soft Calibration Objectives for Neural Networks", arXiv:2108.00106. As in their code,
        the entropy is that of the probabilities mixed with 1e-5 of the uniform ones.

    Example:
        >>> round(SoftAvUC()(torch.tensor([[9.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.0
    """

    batch_coupled: ClassVar[bool] = True
    status = "paper"
    evidence = "an independent evaluation of the formula"

    def __init__(self, threshold: float = 0.5, temperature: float = 0.1, ignore_index: int = -100) -> None:
        super().__init__()
        check_temperature("soft_avuc", temperature)
        check_number("soft_avuc", "threshold", threshold, above=0, most=1 - _EDGE)
        self.threshold = threshold
        self.temperature = temperature
        self.ignore_index = ignore_index

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        return soft_avuc_loss(
            logits, target, threshold=self.threshold, temperature=self.temperature, ignore_index=self.ignore_index
        )
