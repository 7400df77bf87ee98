"""Difference sampling: keeps the texts that a large model finds much more likely than a small one does."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_floating, check_number
from lightning_losses.numerics.shares import share_of


def difference_scores(
    teacher_nll: Float[Tensor, " instances"], reference_nll: Float[Tensor, " instances"]
) -> Float[Tensor, " instances"]:
    """``reference_nll - teacher_nll``: the log-likelihood per token that the teacher gains over the reference model.

    Args:
        teacher_nll: [n] mean negative log-likelihood of each instance's tokens under the large model.
        reference_nll: [n] the same under the small reference model.

    Raises:
        ValueError: shapes or dtypes that do not fit; NaN.
    """
    for name, tensor in (("teacher_nll", teacher_nll), ("reference_nll", reference_nll)):
        check_floating("difference_sampling", name, tensor)
        if tensor.ndim != 1 or tensor.shape != teacher_nll.shape:
            raise ValueError(
                f"difference_sampling: {name} of shape {list(tensor.shape)} came; give one number for each instance, "
                "the same instances for both."
            )
    scores = reference_nll - teacher_nll
    if bool(torch.isnan(scores).any()):
        raise ValueError("difference_sampling: scores hold NaN; an instance without tokens has no mean, leave it out.")
    return scores


def difference_sampling(
    teacher_nll: Float[Tensor, " instances"], reference_nll: Float[Tensor, " instances"], *, ratio: float = 0.5
) -> Int[Tensor, " kept"]:
    """The positions of the ``floor(ratio n)`` instances with the largest scores, in corpus order.

    Pass them to `torch.utils.data.Subset`.

    Args:
        teacher_nll: [n] mean negative log-likelihood of each instance's tokens under the large model.
        reference_nll: [n] the same under the small reference model.
        ratio: the share to keep, in [0, 1].

    Raises:
        ValueError: shapes or dtypes that do not fit; NaN; a ratio outside [0, 1].

    Source:
        Gu, Zhou, Meng, Zhou, Huang, 2024, "MiniPLM: Knowledge Distillation for Pre-Training Language Models",
        arXiv:2410.17215, and its code thu-coai/MiniPLM.

    Example:
        >>> teacher_nll, reference_nll = torch.tensor([1.0, 2.0, 1.0, 3.0]), torch.tensor([3.0, 2.0, 2.0, 3.5])
        >>> difference_sampling(teacher_nll, reference_nll)
        tensor([0, 2])
    """
    check_number("difference_sampling", "ratio", ratio, least=0, most=1)
    scores = difference_scores(teacher_nll, reference_nll)
    best = scores.argsort(descending=True, stable=True)[: share_of(ratio, len(scores))]
    return best.sort().values
