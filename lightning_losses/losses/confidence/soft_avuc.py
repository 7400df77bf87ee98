"""Soft accuracy versus uncertainty calibration: AvUC with soft certainty."""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import PredictionLoss, Predictions
from lightning_losses.numerics.settings import Bound, Temperature

_MIXED = 1e-5
_EDGE = 1e-6


class SoftAvUC(PredictionLoss):
    """Soft accuracy versus uncertainty calibration: be certain when right, uncertain when wrong, without a hard edge.

    ``log(1 + (n_AU + n_IC) / (n_AC + n_IU))`` over accurate (A) and inaccurate (I), certain (C) and uncertain (U)
    predictions. A prediction of entropy H is uncertain to the degree
    ``q = sigmoid((logit(H / log C) - logit κ) / T)``, and adds ``q tanh H`` to the uncertain count and ``(1 - q) (1 -
    tanh H)`` to the certain one. Add the loss to cross-entropy. Batch-coupled.

    Args:
        threshold: κ, the relative entropy in (0, 1) at which a prediction is half uncertain.
        temperature: T, above 0; the softness of the edge.

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

    status = "paper"
    evidence = "an independent evaluation of the formula"

    threshold: Annotated[float, Bound(above=0, below=1)] = 0.5
    temperature: Temperature = 0.1

    def measure(self, given: Predictions) -> Float[Tensor, ""]:
        """The value of the batch."""
        classes = given.log_p.shape[-1]
        mixed = (1 - _MIXED) * given.log_p.exp() + _MIXED / classes
        uncertainty = -(mixed * mixed.log()).sum(dim=-1)
        relative = (uncertainty / math.log(classes)).clamp(_EDGE, 1 - _EDGE)
        edge = math.log(self.threshold / (1 - self.threshold))
        uncertain = torch.sigmoid((torch.logit(relative) - edge) / self.temperature)
        right, wrong, doubt = given.correct * given.kept, (1 - given.correct) * given.kept, torch.tanh(uncertainty)
        good = (right * (1 - uncertain) * (1 - doubt) + wrong * uncertain * doubt).sum()
        bad = (right * uncertain * doubt + wrong * (1 - uncertain) * (1 - doubt)).sum()
        return torch.log1p(bad / good.clamp(min=_MIXED))
