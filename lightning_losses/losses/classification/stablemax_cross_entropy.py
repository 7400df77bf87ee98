"""StableMax cross-entropy: powers instead of a softmax's exponentials, so that it doesn't saturate."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import known_finite, log_probabilities
from lightning_losses.numerics.settings import Share

ComputeDtype = Literal["float32", "float64"]


class StableMaxCrossEntropy(ClassificationLoss):
    """Cross-entropy with StableMax instead of softmax.

    ``-log q_y`` with ``q_k = s(z_k) / sum_j s(z_j)``, ``s(z) = z + 1`` for z >= 0 and ``1 / (1 - z)`` below. The loss
    of a confident row falls like a power of its margin, not exponentially. So it never rounds to exactly 0, and its
    gradient never vanishes. Predictions are those of softmax, because s increases. Probabilities are not: measure
    calibration with `log_stablemax`.

    Args:
        label_smoothing: ε, in [0, 1]; mixes the target with the uniform distribution over the classes that are not
            masked by -inf, as in cross-entropy.
        compute_dtype: the precision of the transform, the normalisation and the result.

    Shapes:
        logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction, in `compute_dtype`.

    Raises:
        ValueError: shapes or dtypes that do not fit; an unknown `compute_dtype`; label_smoothing outside [0, 1].

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697.
        Evaluated as softmax cross-entropy of sign(z) log(1 + |z|) (the paper's Proposition 1): the released code
        forms s(z) and selects with `where`, whose unused branch makes a NaN gradient at z = 1 in float32. Label
        smoothing and soft targets are extensions. Nothing is subtracted from the logits: s is not shift invariant.

    Example:
        >>> logits = torch.tensor([[50.0, 0.0]])
        >>> round(StableMaxCrossEntropy()(logits, torch.tensor([0])).item(), 4)
        0.0194
    """

    status = "confirmed"
    evidence = "LucasPrietoAl/grokking-at-the-edge-of-numerical-stability"

    label_smoothing: Share = 0.0
    compute_dtype: ComputeDtype = "float64"

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_q = log_stablemax(given.logits.to(getattr(torch, self.compute_dtype)))
        share = self.label_smoothing
        if share == 1:
            # A weight of 0 times the infinite value of a masked target would be NaN.
            return -_mean_of_kept(log_q)
        value = cross_entropy(log_q, given.target)
        return value if share == 0 else (1 - share) * value - share * _mean_of_kept(log_q)


def _mean_of_kept(log_q: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows"]:
    """The mean over the classes that are not masked."""
    if log_q.device.type == "cpu":
        mean = log_q.mean(dim=-1)
        if known_finite(mean):
            return mean
    masked = torch.isneginf(log_q)
    return log_q.masked_fill(masked, 0.0).sum(dim=-1) / (~masked).sum(dim=-1)


def stablemax_scores(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """``sign(z) log(1 + |z|)``: the scores whose softmax is StableMax."""
    # Each half gets only its own sign, so neither is NaN; at 0 the first has slope 1 and the other slope 0.
    positive = logits >= 0
    return torch.log1p(torch.where(positive, logits, 0.0)) - torch.log1p(torch.where(positive, 0.0, -logits))


def log_stablemax(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """The logarithms of the StableMax probabilities, in the precision of the logits.

    Example:
        >>> log_stablemax(torch.tensor([1.0, -1.0])).exp()
        tensor([0.8000, 0.2000])
    """
    return log_probabilities(stablemax_scores(logits))
