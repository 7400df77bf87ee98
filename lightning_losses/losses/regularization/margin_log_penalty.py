"""A penalty of confident predictions: the logarithm of one plus the sum of the squared probabilities."""

from typing import Literal

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.probabilities import probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import classification_rows


class MarginLogPenalty(RowLoss):
    """A penalty of confident predictions: the logarithm of one plus the sum of the squared probabilities.

    ``log(1 + ||P||²)`` with P the softmax: "batch" takes the squares of all kept samples together, as the authors do,
    and grows with the batch; "sample" averages the penalty of each. It is added to cross-entropy, with a weight of
    0.03, and is smallest where predictions are uniform.

    Args:
        over: "batch" or "sample".

    Shapes:
        logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar; [...] without reduction, over samples, and over a batch the batch's value for each.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Zeng et al., 2024, "Tackling Data Heterogeneity in Federated Learning via Loss Decomposition", arXiv:2408.12300,
        and their code, Zeng-Shuang/FedLD, where it is the margin loss of each client; its aggregation is not built.

    Example:
        >>> import math, torch
        >>> value = MarginLogPenalty()(torch.zeros(6, 3))  # log(1 + 6/3)
        >>> round(value.item() / math.log(3), 4)
        1.0
    """

    status = "confirmed"
    evidence = "Zeng-Shuang/FedLD"
    batch_coupled = True

    over: Literal["batch", "sample"] = "batch"

    def forward(
        self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        rows = classification_rows(self._identifier, logits, target, self.ignore_index)
        squares = probabilities(rows.logits).square().sum(dim=-1)
        if rows.kept is not None:
            squares = squares.masked_fill(~rows.kept, 0.0)
        if self.over == "batch":
            squares = squares.sum().expand_as(squares)
        return reduce(squares.log1p(), self.reduction, rows.kept)
