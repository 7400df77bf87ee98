"""Accuracy versus uncertainty calibration (AvUC): be certain when right, uncertain when wrong."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import PredictionLoss, Predictions
from lightning_losses.numerics.divergences import entropy
from lightning_losses.numerics.settings import NonNegative

_EPSILON = 1e-10


class AvUC(PredictionLoss):
    """Accuracy versus uncertainty calibration: be certain when right, uncertain when wrong.

    ``-log((n_AC + n_IU) / (n_AC + n_AU + n_IC + n_IU))`` over accurate (A) and inaccurate (I), certain (C) and
    uncertain (U) predictions, a prediction being certain if its entropy H is at most the threshold. The soft counts are
    ``n_AC = sum c (1 - tanh H)``, ``n_AU = sum c tanh H``, ``n_IC = sum (1 - c) (1 - tanh H)`` and ``n_IU = sum (1 - c)
    tanh H`` with confidence c. The choice among the four has no gradient. Add it to cross-entropy. Batch-coupled.

    Args:
        threshold: the entropy, in nats and at least 0, up to which a prediction is certain. None needs no tuning: it
            takes the area under the ratio over 21 thresholds between the batch's smallest and largest entropy.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a negative threshold.

    Source:
        Krishnan, Tickoo, 2020, "Improving model calibration with accuracy versus uncertainty optimization",
        arXiv:2012.07923. Their area (AUAvU) is not differentiable in their code; here it is.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
        >>> round(AvUC(threshold=0.7)(logits, torch.tensor([0, 0])).item(), 4)
        0.2443
    """

    status = "confirmed"
    evidence = "IntelLabs/AVUC"

    threshold: NonNegative | None = None

    def measure(self, given: Predictions) -> Float[Tensor, ""]:
        """The value of the batch."""
        uncertainty = entropy(given.log_p)
        if self.threshold is None:
            thresholds = _spread(uncertainty.detach(), given.kept)
        else:
            thresholds = torch.full_like(uncertainty[:0].sum(), self.threshold).unsqueeze(0)
        certain = (uncertainty.detach() <= thresholds.unsqueeze(-1)).to(uncertainty)
        right = given.correct * given.confidence * given.kept
        wrong = (1 - given.correct) * (1 - given.confidence) * given.kept
        doubt = torch.tanh(uncertainty)
        good = (right * certain * (1 - doubt) + wrong * (1 - certain) * doubt).sum(dim=-1)
        bad = (right * (1 - certain) * doubt + wrong * certain * (1 - doubt)).sum(dim=-1)
        share = good / (good + bad + _EPSILON)
        value = torch.trapezoid(share, dx=1 / (len(share) - 1)) if self.threshold is None else share[0]
        # 0 if no row is kept.
        return -(value + _EPSILON).log() * (given.kept.sum() > 0)


def _spread(uncertainty: Float[Tensor, " rows"], kept: Float[Tensor, " rows"]) -> Float[Tensor, " thresholds"]:
    """21 thresholds evenly spaced from the smallest to the largest uncertainty of the kept rows."""
    steps_done = torch.linspace(0, 1, 21, dtype=uncertainty.dtype, device=uncertainty.device)
    if len(uncertainty) == 0:
        return steps_done
    low = uncertainty.masked_fill(kept == 0, torch.inf).min()
    high = uncertainty.masked_fill(kept == 0, -torch.inf).max()
    finite = torch.isfinite(low)
    # lerp returns both ends exactly, so the extreme samples are on the right side of them.
    return torch.lerp(torch.where(finite, low, 0.0), torch.where(finite, high, 1.0), steps_done)
