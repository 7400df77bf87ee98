"""CrossMax: several networks as one, by the k-th largest of logits that no network and no class dominates."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.networks.calls import call, logits_of
from lightning_losses.numerics.probabilities import full_precision


def crossmax(logits: Float[Tensor, "*rows members classes"], k: int = 3) -> Float[Tensor, "*rows classes"]:
    """The logits of an ensemble: the k-th largest of its members' logits, after two maxima were subtracted.

    ``z_mc - max_c z_mc``, of which then its maximum over the members m is subtracted, class by class; the result is
    the k-th largest over the members. The order of the two matters. A class that every member masks stays masked.

    Args:
        logits: of every member.
        k: at least 2 and at most the number of members: the largest is 0 for every class.

    Raises:
        ValueError: a k outside of its range.

    Source:
        Fort, Lakshminarayanan, 2024, "Ensemble everything everywhere: Multi-scale aggregation for adversarial
        robustness", arXiv:2408.05446, and the notebook in their code, stanislavfort/ensemble-everything-everywhere.

    Example:
        >>> crossmax(torch.tensor([[4.0, 0.0, 1.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), k=2)
        tensor([ 0., -2., -1.])
    """
    _check_k("crossmax", k)
    if logits.ndim < 2 or logits.shape[-2] < k:
        raise ValueError(
            f"crossmax: logits of shape {list(logits.shape)} came with k={k}; give [..., members, classes] of at least "
            f"{k} members."
        )
    scores = full_precision(logits)
    scores = scores - scores.amax(dim=-1, keepdim=True)
    largest = scores.amax(dim=-2, keepdim=True)
    # A class that all mask has no largest that could be subtracted.
    scores = scores - largest.masked_fill(torch.isneginf(largest), 0.0)
    return scores.topk(k, dim=-2).values[..., -1, :]


class CrossMaxEnsemble(nn.Module):
    """Several networks as one, by `crossmax` of their logits.

    Don't take it for a defence: it hides the gradient more than it removes mistakes. Attacks that are made on the plain
    mean of the same networks, and transferred, bring its accuracy down from what attacks through it show: the monitor
    `RobustAccuracy` warns of that, and ``experiment=adversarial`` measures by how much.

    Args:
        members: the networks, with the same inputs and classes.
        k: see `crossmax`.

    Raises:
        ValueError: fewer members than k, or a k below 2.

    Source:
        As `crossmax`.

    Example:
        >>> ensemble = CrossMaxEnsemble([nn.Linear(2, 3) for _ in range(4)])
        >>> ensemble(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """

    def __init__(self, members: Iterable[nn.Module], k: int = 3) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        _check_k("CrossMaxEnsemble", k)
        if len(self.members) < k:
            raise ValueError(
                f"CrossMaxEnsemble: {len(self.members)} members came with k={k}; give at least {k} networks, or a "
                "smaller k."
            )
        self.k = k

    def each(self, inputs: Any) -> Float[Tensor, "*rows members classes"]:
        """Every member's logits."""
        logits = [logits_of("CrossMaxEnsemble: a member", call(member, inputs)) for member in self.members]
        if len(shapes := {tuple(each.shape) for each in logits}) > 1:
            raise ValueError(
                f"CrossMaxEnsemble: the members gave logits of shapes {sorted(map(list, shapes))}; give networks with "
                "the same classes."
            )
        return torch.stack(logits, dim=-2)

    def forward(self, *inputs: Any, **named: Any) -> Float[Tensor, "*rows classes"]:
        """The logits of the ensemble; keyword arguments are passed to the members."""
        return crossmax(self.each(inputs[0] if inputs else named), self.k)

    def extra_repr(self) -> str:
        """k."""
        return f"k={self.k}"


def _check_k(who: str, k: int) -> None:
    if not isinstance(k, int) or isinstance(k, bool) or k < 2:
        raise ValueError(
            f"{who}: k={k!r} came; give a whole number of at least 2, since the largest of all is always 0."
        )
