"""SelfMix: pastes a part of one crop into another crop of the same image, and mixes their labels by area."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_number


class MixedCrops(NamedTuple):
    """The mixed crops, their labels, and the share of the area from the first crops."""

    inputs: Float[Tensor, "batch channels height width"]
    target: Float[Tensor, "batch classes"]
    kept_share: float


def selfmix(
    inputs: Float[Tensor, "batch channels height width"],
    other_inputs: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch classes"],
    other_target: Float[Tensor, "batch classes"],
    *,
    alpha: float = 1.0,
    generator: torch.Generator | None = None,
) -> MixedCrops:
    """Paste a box of each image's second crop into its first, as CutMix does with two images.

    The box has the image's proportions and the same position throughout the batch. Its share of the area, cut off at
    the image's edges, is the weight of the second crop's label.

    Args:
        inputs: [B, channels, height, width] first crops.
        other_inputs: second crops of the same images, in the same order.
        target: [B, C] probabilities of the first crops.
        other_target: [B, C] probabilities of the second crops.
        alpha: α of the Beta(α, α) distribution of the first crop's share before cutting off, above 0.
        generator: the random generator; torch's default if None.

    Raises:
        ValueError: crops or labels of different shapes or numbers; an alpha of 0 or less, or above a million.

    Source:
        After Shen, 2023, "FerKD: Surgical Label Adaptation for Efficient Distillation", arXiv:2312.17473, by CutMix:
        Yun et al., 2019, arXiv:1905.04899.

    Example:
        >>> one, zero = torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
        >>> label = torch.tensor([[1.0, 0.0]])
        >>> mixed = selfmix(one, zero, label, label.flip(1), generator=torch.Generator().manual_seed(0))
        >>> bool(mixed.inputs.mean() == mixed.target[0, 0])
        True
    """
    check_number("selfmix", "alpha", alpha, above=0, most=1e6)
    shapes = inputs.shape == other_inputs.shape and target.shape == other_target.shape
    if not shapes or inputs.ndim != 4 or 0 in inputs.shape[2:] or len(target) != len(inputs):
        raise ValueError(
            f"selfmix: crops of shapes {list(inputs.shape)} and {list(other_inputs.shape)} and labels of shapes "
            f"{list(target.shape)} and {list(other_target.shape)} came; give two [B, channels, height, width] and two "
            "[B, C]."
        )
    height, width = inputs.shape[-2:]
    # A Beta variable is a ratio of Gamma variables, which accept a generator; single precision has no small ones.
    gammas = torch._standard_gamma(torch.full((2,), float(alpha), dtype=torch.float64), generator=generator)
    first, second = gammas.tolist()
    side = (second / (first + second)) ** 0.5
    row, column = (int(torch.randint(size, (1,), generator=generator)) for size in (height, width))
    top, bottom = max(row - int(height * side) // 2, 0), min(row + int(height * side) // 2, height)
    left, right = max(column - int(width * side) // 2, 0), min(column + int(width * side) // 2, width)
    mixed = inputs.clone()
    mixed[..., top:bottom, left:right] = other_inputs[..., top:bottom, left:right]
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return MixedCrops(mixed, kept * target + (1 - kept) * other_target, kept)
