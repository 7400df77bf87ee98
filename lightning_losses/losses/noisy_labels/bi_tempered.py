"""Bi-tempered logistic loss: a bounded loss of a softmax with heavy tails."""

from typing import Annotated

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.rows import one_hot
from lightning_losses.numerics.settings import Bound
from lightning_losses.numerics.tempered import tempered_log_probabilities, tempered_logarithm


class BiTempered(ClassificationLoss):
    """Bi-tempered logistic loss: a bounded loss of a softmax with heavy tails.

    ``sum_k y_k (log_t1 y_k - log_t1 p_k) - (y_k^(2-t1) - p_k^(2-t1)) / (2 - t1)`` with the target y, the tempered
    logarithm ``log_t u = (u^(1-t) - 1) / (1 - t)``, and the tempered softmax ``p_k = exp_t2(z_k - λ)``, in which
    ``exp_t u = (1 + (1-t) u)^(1 / (1-t))`` and λ makes p add up to 1. With t1 < 1 the loss is bounded, so that wrong
    labels far from the decision boundary count little; with t2 > 1 the softmax has heavy tails, so that wrong labels
    near the boundary count little too. With t1 = t2 = 1 it is cross-entropy, less the target's entropy.

    Args:
        t1: t1, in [0, 1]; the smaller, the lower the bound.
        t2: t2, in [1, 4]; the larger, the heavier the tails.
        label_smoothing: share s of the target that goes to the other classes in equal parts, in [0, 0.5].

    Shapes:
        logits: [..., C]; target: [...] class indices, or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction; at least 0, and 0 where p is y.

    Raises:
        ValueError: shapes or dtypes that do not fit; a setting outside of its range.

    Source:
        Amid, Warmuth, Anil, Koren, 2019, "Robust Bi-Tempered Logistic Loss Based on Bregman Divergences",
        arXiv:1906.03361, and its code google/bi-tempered-loss, whose five steps towards λ leave p off by up to 1e-5;
        this iterates until λ is exact. The order of the classes is that of the softmax, and so is the prediction.

    Example:
        >>> round(BiTempered(t1=0.5, t2=2.0)(torch.zeros(1, 4), torch.tensor([0])).item(), 4)
        0.6667
    """

    status = "confirmed"
    evidence = "google/bi-tempered-loss"

    t1: Annotated[float, Bound(least=0, most=1)] = 0.8
    t2: Annotated[float, Bound(least=1, most=4)] = 1.2
    label_smoothing: Annotated[float, Bound(least=0, most=0.5)] = 0.0

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_p, target, power = tempered_log_probabilities(given.logits, self.t2), self._smoothed(given), 2 - self.t1
        of_prediction = cross_entropy(tempered_logarithm(log_p, self.t1), target)
        if target.is_floating_point():
            log_y = target.clamp(min=torch.finfo(target.dtype).tiny).log()
            of_prediction = of_prediction + (target * tempered_logarithm(log_y, self.t1)).sum(dim=-1)
            of_target = target.pow(power).sum(dim=-1)
        else:
            of_target = torch.ones_like(of_prediction)
        return of_prediction + (torch.exp(power * log_p).sum(dim=-1) - of_target) / power

    def _smoothed(self, given: ClassificationRows) -> Shaped[Tensor, "..."]:
        if self.label_smoothing == 0:
            return given.target
        classes, target = given.logits.shape[-1], given.target
        target = target if target.is_floating_point() else one_hot(target, given.logits)
        other = self.label_smoothing / (classes - 1)
        return (1 - other * classes) * target.to(given.logits.dtype) + other
