"""R-Drop: two passes with different dropout should predict the same."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import classification_rows


class RDrop(RowLoss):
    """R-Drop: two passes with different dropout should predict the same.

    ``(KL(p || q) + KL(q || p)) / 2`` with p and q the softmax of the two passes; both get a gradient. It is added
    to the mean cross-entropy of the passes, as in ``objective=rdrop``, with a weight of 5 in translation and about 1
    elsewhere. `SecondPassMixin` makes the second pass. A class that one pass alone masks counts there as e^-100.

    Shapes:
        logits: [..., C]; logits_b: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Liang et al., 2021, "R-Drop: Regularized Dropout for Neural Networks", arXiv:2106.14448, and their code,
        dropreg/R-Drop, which sums over tokens (`reduction="sum"`).

    Example:
        >>> import torch
        >>> RDrop()(torch.zeros(2, 3), torch.zeros(2, 3)).item()
        0.0
    """

    status = "confirmed"
    evidence = "dropreg/R-Drop"

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        logits_b: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        check_floating(self._identifier, "logits_b", logits_b)
        first = classification_rows(self._identifier, logits, target, self.ignore_index)
        if logits_b.shape != logits.shape:
            raise ValueError(
                f"{self._identifier}: logits_b of shape {list(logits_b.shape)} came with logits of shape "
                f"{list(logits.shape)}; give both passes the same samples."
            )
        second = classification_rows(self._identifier, logits_b, target, self.ignore_index)
        log_p, log_q = log_probabilities(first.logits), log_probabilities(second.logits.to(first.logits.dtype))
        return reduce((kl_divergence(log_p, log_q) + kl_divergence(log_q, log_p)) / 2, self.reduction, first.kept)
