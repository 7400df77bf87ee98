"""Progressive self-knowledge distillation: the target moves from the label towards the network's past prediction."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import (
    beside_logits,
    check_probabilities,
    check_shares,
    classification_rows,
    one_hot,
    required_target,
)
from lightning_losses.numerics.settings import Share

Progress = float | Float[Tensor, ""]


def pskd_target(
    target: Shaped[Tensor, "..."], past_probabilities: Float[Tensor, "*rows classes"], past_weight: Progress
) -> Float[Tensor, "*rows classes"]:
    """``(1 - past_weight) one-hot(target) + past_weight past_probabilities``, without gradient."""
    past = past_probabilities.detach()
    label = target.to(past.dtype) if target.is_floating_point() else one_hot(target, past)
    return (1 - past_weight) * label + past_weight * past


class PSKD(RowLoss):
    """Progressive self-knowledge distillation: the target moves from the label towards the network's past prediction.

    ``-sum_k q_k log s_k`` with ``q = (1 - α_e) one-hot(y) + α_e P``, where P is what the network predicted for this
    sample one epoch ago and ``α_e = α (e + 1) / E`` grows over the epochs e = 0, ..., E - 1.

    Args:
        alpha: α, the weight of the past prediction in the last epoch, in [0, 1]. At 0 this is cross-entropy.

    Shapes:
        logits, past_probabilities: [..., C]; target: [...] class indices or [..., C] probabilities; epoch_progress:
        ``(e + 1) / E``, a number or scalar tensor in [0, 1].

    Returns:
        A scalar, or [...] without reduction. Infinite if q has a class that is masked by -inf.

    Raises:
        ValueError: shapes or dtypes that do not fit; an alpha or an epoch_progress outside [0, 1].

    Source:
        Kim, Ji, Yoon, Hwang, 2021, "Self-Knowledge Distillation with Progressive Refinement of Targets",
        arXiv:2006.12000, and its code lgcnsai/PS-KD-Pytorch. `SelfDistillationMixin` keeps the past predictions. For a
        sample not seen yet it gives the one-hot label, so that the first epoch is plain cross-entropy; the code would
        read zeros for a sample first seen in a later epoch.

    Example:
        >>> import torch
        >>> logits, target, past = torch.zeros(1, 2), torch.tensor([0]), torch.tensor([[0.5, 0.5]])
        >>> round(PSKD()(logits, target, past, 1.0).item(), 4)
        0.6931
    """

    status = "confirmed"
    evidence = "lgcnsai/PS-KD-Pytorch"

    alpha: Share = 0.8

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
        past_probabilities: Float[Tensor, "*rows classes"],
        epoch_progress: Progress,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        if isinstance(epoch_progress, Tensor):
            check_shares(self._identifier, "epoch_progress", epoch_progress)
        else:
            check_number(self._identifier, "epoch_progress", epoch_progress, least=0, most=1)
        rows = classification_rows(self._identifier, logits, target, self.ignore_index)
        past = beside_logits(self._identifier, "past_probabilities", past_probabilities, logits.shape, rows)
        check_probabilities(self._identifier, "past_probabilities", past)
        soft = pskd_target(required_target(self._identifier, rows.target), past, self.alpha * epoch_progress)
        return reduce(cross_entropy(log_probabilities(rows.logits), soft), self.reduction, rows.kept)
