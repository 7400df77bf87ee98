"""Cross-entropy with the two classes that annotators chose most, each in its share."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss, index_rows
from lightning_losses.numerics.checks import check_tensor
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.regression import refuse_where
from lightning_losses.numerics.rows import check_classes, pick

# A share may be off by this much.
_ROUNDING = 5e-7


class TopTwoSoftLabels(RowLoss):
    """Cross-entropy with the two classes that annotators chose most, each in its share.

    ``-q log p_g - (1 - q) log p_h`` with p the softmax, g the target, h the second target and q the target's share.
    With q = 1, without a second target, or with g twice, it is cross-entropy with g. `top_two` makes the second target
    and the share of votes.

    Shapes:
        logits: [..., C]; target: [...] class indices; second_target: [...] class indices, or -100 for none;
        target_share: [...] in [0.5, 1].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; classes or shares out of range.

    Source:
        Jeong, Chung, 2023, "Recovering Top-Two Answers and Confusion Probability in Multi-Choice Crowdsourcing",
        arXiv:2301.00006, whose training loss this is. Their estimate of classes and share from the workers' answers is
        not built; `top_two` takes the shares of the votes.

    Example:
        >>> target, second, share = top_two(torch.tensor([[3, 0, 1]]))
        >>> round(TopTwoSoftLabels()(torch.zeros(1, 3), target, second, share).item(), 4), share.item()  # log 3
        (1.0986, 0.75)
    """

    status = "paper"
    evidence = "an evaluation of the formula by numpy"

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Int[Tensor, "*rows"],
        second_target: Int[Tensor, "*rows"],
        target_share: Float[Tensor, "*rows"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        given = index_rows(self._identifier, logits, target, self.ignore_index)
        for name, tensor in (("second_target", second_target), ("target_share", target_share)):
            check_tensor(self._identifier, name, tensor)
            if tensor.shape != target.shape:
                raise ValueError(
                    f"{self._identifier}: {name} of shape {list(tensor.shape)} came with a target of shape "
                    f"{list(target.shape)}; give both the same."
                )
        if second_target.dtype != torch.int64:
            raise ValueError(
                f"{self._identifier}: second_target has dtype {second_target.dtype}; give int64 class indices."
            )
        share = full_precision(target_share.detach()).to(given.logits.dtype)
        kept = target != self.ignore_index
        second_kept = second_target.masked_fill(~kept, -100)
        has_second = check_classes(self._identifier, second_kept, logits.shape[-1], name="second_target")
        outside = ((share < 0.5 - _ROUNDING) | (share > 1 + _ROUNDING)) & kept
        refuse_where(outside, self._identifier, "target_share", share, "in [0.5, 1]")
        share = (
            torch.where(has_second, share, 1.0) if given.kept is None else torch.where(has_second & kept, share, 1.0)
        )
        log_p = log_probabilities(given.logits)
        second = pick(log_p, second_target.masked_fill(~has_second, 0))
        # A class without a share may be masked.
        second = torch.where(share == 1, 0.0, (1 - share) * second)
        return reduce(-(share * pick(log_p, given.target) + second), self.reduction, given.kept)


def top_two(votes: Float[Tensor, "*rows classes"]) -> tuple[Tensor, Tensor, Tensor]:
    """The class with the most votes, the second, or -100 where nobody chose another, and the first's share of both.

    Votes are numbers or shares of them. Without any vote the first class is -100 too.

    Example:
        >>> top_two(torch.tensor([[1, 3], [0, 2]]))
        (tensor([1, 1]), tensor([   0, -100]), tensor([0.7500, 1.0000]))
    """
    if votes.ndim == 0 or votes.shape[-1] < 2:
        raise ValueError(
            f"top_two: votes of shape {list(votes.shape)} came; give [..., classes], those for two classes at least."
        )
    most = votes.double().topk(2, dim=-1)
    first, second = most.values.unbind(dim=-1)
    target, second_target = most.indices.unbind(dim=-1)
    share = torch.where(second == 0, 1.0, first / (first + second))
    target, second_target = target.masked_fill(first == 0, -100), second_target.masked_fill(second == 0, -100)
    return target, second_target, share.to(torch.get_default_dtype())
