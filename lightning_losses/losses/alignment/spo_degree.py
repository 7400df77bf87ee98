"""SPO: a language model tells how much of a completion's key content was removed."""

from dataclasses import field
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from lightning_losses.losses.kinds import RowLoss, index_rows
from lightning_losses.numerics.checks import check_embeddings
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import check_labels, pick
from lightning_losses.numerics.settings import Bound, Count


class SPODegree(RowLoss):
    """The self-supervised term of SPO: the degree to which a completion's key content was removed, as classes.

    Cross-entropy of a linear head of the loss's own on a completion's pooled hidden state. The completion lost, by
    `without_key_content`, a share of its key tokens, and the share's number is the target, from 0 for none to C - 1
    for all. It is a term beside any preference loss, once for chosen and once for rejected completions.

    Args:
        feature_dim: D, at least 1.
        num_classes: C, the number of degrees, at least 2.

    Shapes:
        features: [B, D]; target: [B] int64, the degree of each completion.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a degree out of range, on a CPU and under `debug`.

    Source:
        Li et al., 2024, "Self-supervised Preference Optimization: Enhance Your Language Model with Preference Degree
        Awareness", arXiv:2409.17791. Reconstructed from its abstract; the formula is not confirmed.

    Example:
        >>> loss = SPODegree(feature_dim=3, num_classes=4)
        >>> _ = torch.nn.init.zeros_(loss.head.weight)
        >>> round(loss(torch.ones(1, 3), torch.tensor([2])).item(), 4)  # log 4
        1.3863
    """

    status = "experimental"
    evidence = "no golden values: the authors' repository holds no code, and the formula is made from the abstract"

    feature_dim: Count
    num_classes: Annotated[int, Bound(least=2)] = 5
    head: nn.Linear = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.head = nn.Linear(self.feature_dim, self.num_classes)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Float[Tensor, "batch dim"], target: Int[Tensor, " batch"]) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        check_embeddings(self._identifier, "features", features)
        if features.shape[1] != self.feature_dim:
            raise ValueError(
                f"{self._identifier}: features of shape {list(features.shape)} came with "
                f"feature_dim={self.feature_dim}; give as many dimensions."
            )
        kept = check_labels(self._identifier, target, len(features), self.ignore_index)
        # An ignored row may hold anything, which the head's gradient would be multiplied by.
        features = features.to(self.head.weight).masked_fill(~kept.unsqueeze(-1), 0.0)
        given = index_rows(self._identifier, self.head(features), target, self.ignore_index)
        return reduce(-pick(log_probabilities(given.logits), given.target), self.reduction, given.kept)


def without_key_content(
    importance: Float[Tensor, "batch tokens"],
    mask: Shaped[Tensor, "batch tokens"],
    degree: Int[Tensor, " batch"],
    num_classes: int,
) -> Bool[Tensor, "batch tokens"]:
    """Which tokens of completions stay when a share of the key ones is removed, the most important first.

    Args:
        importance: [B, T] how much a token is key content; 0 or less for what is none.
        mask: [B, T] other than 0 for a completion's tokens.
        degree: [B] from 0, where all stay, to ``num_classes - 1``, where all key tokens go.
        num_classes: the number of degrees.

    Example:
        >>> importance = torch.tensor([[3.0, 0.0, 1.0, 2.0]])
        >>> without_key_content(importance, torch.ones(1, 4), torch.tensor([1]), num_classes=4)
        tensor([[False,  True,  True,  True]])
    """
    present = mask != 0
    key = present & (importance > 0)
    rank = importance.masked_fill(~key, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    removed = torch.div(degree * key.sum(dim=1) + num_classes - 2, num_classes - 1, rounding_mode="floor")
    return present & ~(key & (rank < removed.unsqueeze(1)))
