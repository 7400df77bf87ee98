"""AnyLoss: a metric of right and wrong predictions as a loss, by soft counts of them."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import PredictionLoss, Predictions
from lightning_losses.numerics.settings import Positive

# The slope of a square root at 0 is infinite.
_LEAST = 1e-12


class AnyLoss(PredictionLoss):
    """AnyLoss: a metric of right and wrong predictions as a loss, by soft counts of them.

    ``1 - metric(TP, FP, FN, TN)`` of the soft counts ``TP = sum_i y_i h_i`` and so on, with
    ``h = sigmoid(L (p - 1/2))`` and p the probability of a class. The metric is accuracy, F-beta
    ``(1 + β²) TP / (β² P + sum h)``, the geometric mean ``sqrt(TPR TNR)``, or balanced accuracy ``(TPR + TNR) / 2``.
    With two classes it is the metric of class 1; with more, the mean over the classes, each against the rest, which is
    an extension.

    The metric is undefined for a class without positives in the batch (F-beta, geometric mean, balanced accuracy) or
    without negatives (the last two): such a class is left out, and a batch with no other class has the value 0, with
    zero gradients. So use batches that hold some positives. Gradients vanish where p is further from 1/2 than about
    20 / L.

    Args:
        metric: what is optimised.
        beta: β of F-beta, above 0.
        amplification: L, above 0.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar from 0 to 1.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Source:
        Han, Moniz, Chawla, 2024, "AnyLoss: Transforming Classification Metrics into Loss Functions", arXiv:2405.14745,
        and its code, doheonhan/anyloss, whose own gradient of the geometric mean is four times the true one.

    Example:
        >>> loss = AnyLoss("f_beta")
        >>> round(loss(torch.tensor([[0.0, 5.0], [0.0, 5.0], [5.0, 0.0]]), torch.tensor([1, 0, 0])).item(), 4)
        0.3333
    """

    status = "confirmed"
    evidence = "doheonhan/anyloss"

    metric: Literal["f_beta", "accuracy", "geometric_mean", "balanced_accuracy"] = "f_beta"
    beta: Positive = 1.0
    amplification: Positive = 73.0

    def measure(self, given: Predictions) -> Float[Tensor, ""]:
        """The value of the batch."""
        first = 1 if given.log_p.shape[-1] == 2 else 0
        p = given.log_p.exp()[:, first:]
        kept = given.kept.unsqueeze(-1)
        own = torch.arange(first, given.log_p.shape[-1], device=p.device)
        label = (given.target.unsqueeze(-1) == own).to(p) * kept
        yes = torch.sigmoid(self.amplification * (p - 0.5)) * kept
        positives, negatives = label.sum(dim=0), kept.sum() - label.sum(dim=0)
        hits, claimed = (label * yes).sum(dim=0), yes.sum(dim=0)
        rejections = negatives - (claimed - hits)
        recall, specificity = hits / positives.clamp(min=1), rejections / negatives.clamp(min=1)
        if self.metric == "accuracy":
            value, defined = (hits + rejections) / kept.sum().clamp(min=1), positives + negatives > 0
        elif self.metric == "f_beta":
            # β² / (1 + β²), for any β.
            share = (self.beta / math.hypot(1, self.beta)) ** 2
            defined = positives > 0
            value = hits / torch.where(defined, share * positives + (1 - share) * claimed, 1.0)
        else:
            defined = (positives > 0) & (negatives > 0)
            if self.metric == "geometric_mean":
                value = (recall * specificity).clamp(min=_LEAST).sqrt()
            else:
                value = (recall + specificity) / 2
        # A class that counts nothing still belongs to the graph; what is not a number shows.
        losses = torch.where(defined, 1 - value, 0 * p.sum(dim=0))
        return losses.sum() / defined.sum().clamp(min=1)
