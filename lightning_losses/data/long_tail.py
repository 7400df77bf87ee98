"""A long tail: a subset of the samples in which the classes have ever fewer."""

import numpy as np
from numpy.typing import NDArray


def long_tailed(target: NDArray[np.int64], num_classes: int, *, ratio: float, seed: int) -> NDArray[np.int64]:
    """Positions of samples such that each class has fewer than the previous one: the first all, the last 1 in `ratio`.

    The k-th of C classes has ``n ratio^(-k / (C - 1))`` samples, with n the number of the smallest class; the order of
    the classes is random.

    Raises:
        ValueError: a class without a sample.

    Source:
        Cui et al., 2019, "Class-Balanced Loss Based on Effective Number of Samples", arXiv:1901.05555, who reduce
        CIFAR's classes in this way, in the original order.

    Example:
        >>> target = np.repeat(np.arange(3), 100)
        >>> sorted(np.bincount(target[long_tailed(target, 3, ratio=100, seed=0)]).tolist())
        [1, 10, 100]
    """
    random = np.random.RandomState(seed)
    counts = np.bincount(target, minlength=num_classes)
    if not (most := int(counts.min())):
        raise ValueError(
            f"long_tailed: num_classes={num_classes} came, and class {int(counts.argmin())} has no sample; give some "
            "of each."
        )
    chosen = []
    for place, label in enumerate(random.permutation(num_classes)):
        count = max(round(most * ratio ** (-place / max(num_classes - 1, 1))), 1)
        chosen.append(random.permutation(np.flatnonzero(target == label))[:count])
    return np.sort(np.concatenate(chosen))
