"""A fixed, stratified split into training, validation and test."""

from collections.abc import Sequence, Sized
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Group = TypeVar("Group", bound=Sized)


class Split(NamedTuple):
    """Positions of the samples of each part, ascending; every sample is in exactly one part."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


def stratified_split(target: NDArray[Any], *, val_fraction: float, test_fraction: float, seed: int) -> Split:
    """Split samples so that every class has the same share in each part, within one sample.

    Args:
        target: [n] class indices.
        val_fraction: the share of the validation part, above 0.
        test_fraction: the share of the test part, above 0; the rest is for training.
        seed: the same seed gives the same split on every machine.

    Raises:
        ValueError: fractions that leave a part empty.

    Example:
        >>> split = stratified_split(np.repeat([0, 1], 10), val_fraction=0.2, test_fraction=0.2, seed=0)
        >>> [len(part) for part in split]
        [12, 4, 4]
    """
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise ValueError(
            f"stratified_split: val_fraction={val_fraction} and test_fraction={test_fraction} came; give "
            "two numbers above 0 whose sum is below 1."
        )
    if len(target) == 0:
        raise ValueError("stratified_split: no samples came; give at least one for each part.")
    # numpy guarantees RandomState's stream forever; a Generator's may change between versions.
    random = np.random.RandomState(seed)
    parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for label in np.unique(target):
        positions = random.permutation(np.flatnonzero(target == label))
        val = round(len(positions) * val_fraction)
        test = round(len(positions) * test_fraction)
        for part, chosen in zip(
            parts, np.split(positions, [len(positions) - val - test, len(positions) - test]), strict=True
        ):
            part.append(chosen)
    split = Split(*(np.sort(np.concatenate(part)) for part in parts))
    if not all(len(part) for part in split):
        raise ValueError(
            f"stratified_split: {[len(part) for part in split]} samples are left for train, val and test; "
            "give larger fractions or more samples."
        )
    return split


def split_whole(groups: Sequence[Group], *, val_fraction: float, test_fraction: float) -> tuple[list[Group], ...]:
    """Assign whole groups of samples, such as files, in order to training, validation and test.

    Raises:
        ValueError: fractions below 0, or whose sum is not below 1; groups that leave training empty.

    Example:
        >>> split_whole(["abcdef", "g", "hi", "j"], val_fraction=0.2, test_fraction=0.2)
        (['abcdef'], ['g', 'j'], ['hi'])
    """
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise ValueError(
            f"split_whole: val_fraction={val_fraction} and test_fraction={test_fraction} came; give two numbers of at "
            "least 0 whose sum is below 1."
        )
    total = sum(map(len, groups))
    if total == 0:
        raise ValueError(f"split_whole: {len(groups)} groups came, without a sample; give some.")
    lacking = [total * share for share in (1 - (val_fraction + test_fraction), val_fraction, test_fraction)]
    parts: tuple[list[Group], ...] = ([], [], [])
    for group in groups:
        # To the part that lacks most.
        part = lacking.index(max(lacking))
        parts[part].append(group)
        lacking[part] -= len(group)
    return parts


def stratified_order(target: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """All positions in an order such that every prefix has the classes' shares, within one sample for equal shares.

    Args:
        target: [n] class indices.
        seed: the same seed gives the same order on every machine.

    Example:
        >>> target = np.repeat([0, 1], 10)
        >>> target[stratified_order(target, seed=0)[:4]].tolist()
        [0, 1, 0, 1]
    """
    random = np.random.RandomState(seed)
    place = np.empty(len(target))
    for label in np.unique(target):
        positions = random.permutation(np.flatnonzero(target == label))
        # Place the samples of each class evenly in (0, 1), and merge the classes by place.
        place[positions] = (np.arange(len(positions)) + 0.5) / len(positions)
    return np.argsort(place, kind="stable")
