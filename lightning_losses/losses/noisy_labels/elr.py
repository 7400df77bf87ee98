"""Early-learning regularisation: predictions stay near the earlier predictions for the same sample."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.sample_memory import Columns, Given, Kept, RememberingLoss
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import full_precision, log_probabilities, probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import beside_logits, check_shares, classification_rows, required_target
from lightning_losses.numerics.settings import Share, Weight

# How near to 0 and 1 a probability may come, so that the logarithm is finite.
_NEAREST = 1e-4


class ELR(RememberingLoss):
    """Early-learning regularisation: predictions stay near the earlier predictions for the same sample.

    ``-log p_y + λ log(1 - sum_k t_k p_k)``, where t is a moving average of the network's predictions for the sample:
    ``t ← β t + (1 - β) p / sum_k p_k``, which begins at 0 and is updated before the loss of the same step. In t and in
    the second term p is clamped to [1e-4, 1 - 1e-4]; outside, it has no gradient. Right labels are learned first. The
    second term keeps their gradient from vanishing, and counteracts the gradient of wrong labels, which would be
    learned later. The term is negative, so that the loss can be negative too. Outside of training each sample is
    treated as new: t = (1 - β) p.

    Args:
        coefficient: λ, at least 0; 0 is cross-entropy. The authors take 3 for CIFAR-10, 7 for CIFAR-100.
        beta: β, in [0, 1]; 0.7 and 0.9.

    Shapes:
        logits, running_targets: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; running targets or options out of range.

    Source:
        Liu, Niles-Weed, Razavian, Fernandez-Granda, 2020, "Early-Learning Regularization Prevents Memorization of Noisy
        Labels", arXiv:2007.00151, and their code, shengliu66/ELR. ELR+, with two networks and mixup, is not in the
        library.

    Example:
        >>> logits, target, never = torch.zeros(1, 2), torch.tensor([0]), torch.zeros(1, 2)
        >>> round(ELR(coefficient=3.0, beta=0.7)(logits, target, never).item(), 4)
        0.2056
    """

    status = "confirmed"
    evidence = "shengliu66/ELR"
    remembers = "running_targets"

    coefficient: Weight = 3.0
    beta: Share = 0.7

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
        running_targets: Float[Tensor, "*rows classes"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        rows = classification_rows(self._identifier, logits, target, self.ignore_index)
        before = beside_logits(self._identifier, "running_targets", running_targets, logits.shape, rows)
        check_shares(self._identifier, "running_targets", before)
        agreement = (self.next_targets(rows.logits, before) * _clamped(rows.logits)).sum(dim=-1)
        label = required_target(self._identifier, rows.target)
        value = cross_entropy(log_probabilities(rows.logits), label) + self.coefficient * torch.log1p(-agreement)
        return reduce(value, self.reduction, rows.kept)

    def next_targets(
        self, logits: Float[Tensor, "*rows classes"], running_targets: Float[Tensor, "*rows classes"]
    ) -> Float[Tensor, "*rows classes"]:
        """The moving average after these predictions, without gradient."""
        p = _clamped(logits.detach())
        return self.beta * running_targets + (1 - self.beta) * p / p.sum(dim=-1, keepdim=True)

    def fresh(self, given: Given) -> Columns:
        """An average of nothing."""
        return {"running_targets": full_precision(given["logits"].detach()).new_zeros(given["logits"].shape[1:])}

    def remember(self, kept: Kept, given: Given) -> Columns:
        """The moving average after this step."""
        logits = full_precision(given["logits"])
        return {"running_targets": self.next_targets(logits, kept("running_targets").to(logits))}


def _clamped(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    return probabilities(logits).clamp(_NEAREST, 1 - _NEAREST)
