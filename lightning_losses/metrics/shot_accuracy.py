"""The accuracy of classes with many, with a medium number and with few training samples."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.subgroup_accuracy import right_predictions, subgroup_accuracy

ClassCounts = Sequence[float] | Float[Tensor, " classes"]


class ShotAccuracy(NamedTuple):
    """The mean of the classes' accuracies in each group; NaN for a group without a class that has samples."""

    many: Float[Tensor, ""]
    medium: Float[Tensor, ""]
    few: Float[Tensor, ""]


def shot_groups(class_counts: ClassCounts, *, many: float = 100, few: float = 20) -> Int[Tensor, " classes"]:
    """The group of each class: 0 for many training samples, 1 for a medium number, 2 for few.

    Args:
        class_counts: [C] training samples of each class.
        many: classes with more samples than this have many.
        few: classes with fewer samples than this have few, those without any too; at most `many`.

    Raises:
        ValueError: counts that are no numbers of at least 0; `few` above `many`.

    Example:
        >>> shot_groups([400, 100, 20, 4]).tolist()
        [0, 1, 1, 2]
    """
    check_limits("shot_groups", many, few)
    counts = torch.as_tensor(class_counts, dtype=torch.float32)
    if counts.ndim != 1 or not bool((counts.isfinite() & (counts >= 0)).all()):
        raise ValueError(
            f"shot_groups: class_counts={counts.tolist()} came; give a number of at least 0 for each class."
        )
    return (counts <= many).long() + (counts < few).long()


def shot_accuracy(
    prediction: Int[Tensor, "*samples"],
    target: Int[Tensor, "*samples"],
    class_counts: ClassCounts,
    *,
    many: float = 100,
    few: float = 20,
) -> ShotAccuracy:
    """The accuracy of classes with many, with a medium number and with few training samples.

    In each group it is the mean of the classes' own accuracies, so that every class counts the same.

    Args:
        prediction: the predicted classes of data that were not trained on.
        target: their classes; samples with a negative one are left out.
        class_counts: [C] training samples of each class.
        many, few: the groups' limits, see `shot_groups`.

    Raises:
        ValueError: as `shot_groups`; a target that is not among the classes.

    Source:
        Liu, Miao, Zhan, Wang, Gong, Yu, 2019, "Large-Scale Long-Tailed Recognition in an Open World", arXiv:1904.05160:
        the three groups with these limits.

    Example:
        >>> shot_accuracy(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 1, 2]), [400, 50, 4])
        ShotAccuracy(many=tensor(1., dtype=torch.float64), medium=tensor(1., dtype=torch.float64), few=tensor(0., \
dtype=torch.float64))
    """
    groups = shot_groups(class_counts, many=many, few=few).to(target.device)
    of_class = subgroup_accuracy(right_predictions("shot_accuracy", prediction, target), target, len(groups))
    return ShotAccuracy(*(of_class[groups == group].nanmean() for group in range(3)))


def check_limits(who: str, many: float, few: float) -> None:
    """Raise ``ValueError`` unless `few` is at most `many`."""
    if few > many:
        raise ValueError(f"{who}: few={few} came with many={many}; give a number of few that is at most many.")
