"""TRADES: cross-entropy of clean inputs, and a weight on how far an attack moves the prediction."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.robustness.attacked_rows import AttackedLoss, AttackedRows
from lightning_losses.numerics.divergences import cross_entropy, kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Weight


class TRADES(AttackedLoss):
    """TRADES: cross-entropy of clean inputs, and a weight on how far an attack moves the prediction.

    ``-log p_y + β KL(p || p')`` with p the softmax of the clean inputs and p' that of the attacked ones. Both get a
    gradient from the divergence. Its attack makes that divergence large, and needs no target. A class that p' alone
    masks counts there as e^-100.

    Args:
        beta: β, what robustness counts beside accuracy, at least 0; the authors' scripts have 6.

    Shapes:
        logits: [..., C]; attacked_logits: [..., C]; target: [...] class indices, or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a β below 0.

    Source:
        Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, 2019, "Theoretically Principled Trade-off between Robustness and
        Accuracy", arXiv:1901.08573, and their code, yaodongyu/TRADES.

    Example:
        >>> import torch
        >>> loss, clean = TRADES(beta=6.0), torch.tensor([[2.0, 0.0]])
        >>> [round(loss(clean, attacked, torch.tensor([0])).item(), 4) for attacked in (clean, -clean)]
        [0.1269, 9.2661]
    """

    soft_targets = True
    status = "confirmed"
    evidence = "yaodongyu/TRADES"

    beta: Weight = 6.0

    def rows(self, given: AttackedRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_p, log_q = log_probabilities(given.logits), log_probabilities(given.attacked_logits)
        return cross_entropy(log_p, given.target) + self.beta * kl_divergence(log_p, log_q)
