"""Entropy of the predictions: what is minimised at test time."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.divergences import entropy
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import classification_rows


class SoftmaxEntropy(RowLoss):
    """Entropy of the predictions, which makes them more certain without labels.

    ``-sum_c p_c log p_c`` in nats, with p the softmax; in [0, log C]. Its gradient is 0 at the uniform prediction and
    vanishes towards a certain one. Alone, and without end, it makes a network predict one class for everything; see
    `lightning_losses.test_time` for what guards against that. `ConfidencePenalty` is its negative.

    Shapes:
        logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Wang, Shelhamer, Liu, Olshausen, Darrell, 2020, "Tent: Fully Test-Time Adaptation by Entropy Minimization",
        arXiv:2006.10726. In training beside labels: Grandvalet and Bengio, 2004, "Semi-supervised Learning by Entropy
        Minimization".

    Example:
        >>> import torch
        >>> round(SoftmaxEntropy()(torch.zeros(1, 4)).item(), 4)
        1.3863
    """

    status = "paper"
    evidence = "mariodoebler/test-time-adaptation, not the authors' code"

    def forward(
        self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        rows = classification_rows(self._identifier, logits, target, self.ignore_index)
        return reduce(entropy(log_probabilities(rows.logits)), self.reduction, rows.kept)
