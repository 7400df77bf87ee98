"""The accuracy of the classes that are told worst."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_number


def tail_accuracy(class_accuracy: Float[Tensor, " classes"], share: float = 0.3) -> Float[Tensor, ""]:
    """The mean accuracy of the classes with the lowest ones; NaN where no class has samples.

    Under attack, with the share 0.3, it is RA-Tail-30: an attack finds some classes much easier than others, and the
    mean over all hides that.

    Args:
        class_accuracy: of each class, as `subgroup_accuracy` gives it; classes of NaN, without samples, are left out.
        share: of the classes that have samples, above 0 and at most 1; their number is rounded up.

    Raises:
        ValueError: a share outside of its range; something else than one number for each class.

    Source:
        The metric of Sow, Lin, Wang, Liang, 2023, "Doubly Robust Instance-Reweighted Adversarial Training",
        arXiv:2308.00311. They published no code; that its tail is one of classes is our reading: of samples, the most
        vulnerable would be those that are fooled, and the number a function of the mean.

    Example:
        >>> tail_accuracy(torch.tensor([0.9, 0.2, 0.4, 0.8, torch.nan]), share=0.5)
        tensor(0.3000)
    """
    check_number("tail_accuracy", "share", share, above=0, most=1)
    if class_accuracy.ndim != 1:
        raise ValueError(
            f"tail_accuracy: accuracies of shape {list(class_accuracy.shape)} came; give [classes], one for each."
        )
    known = class_accuracy[~class_accuracy.isnan()]
    # Rounded first, so that 0.3 of 10 is 3.
    number = math.ceil(round(share * len(known), 9))
    return known.sort().values[:number].mean() if number else class_accuracy.new_full((), torch.nan)
