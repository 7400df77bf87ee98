"""Accuracy while tasks are learnt one after another: forgetting and plasticity in a window, and the worst case."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_count


def windowed_forgetting(accuracy: Sequence[float] | Float[Tensor, " evaluations"], window: int = 10) -> float:
    """The largest fall of a task's accuracy within any `window` consecutive evaluations; at least 0.

    Source:
        De Lange, van de Ven, Tuytelaars, 2023, "Continual Evaluation for Lifelong Learning: Identifying the Stability
        Gap", arXiv:2205.13452.

    Example:
        >>> round(windowed_forgetting([0.9, 0.4, 0.8], window=2), 4)
        0.5
    """
    return windowed_plasticity([-float(value) for value in accuracy], window)


def windowed_plasticity(accuracy: Sequence[float] | Float[Tensor, " evaluations"], window: int = 10) -> float:
    """The largest rise of a task's accuracy within any `window` consecutive evaluations; at least 0.

    This is exact; the released code skips evaluations below the largest so far and can miss the largest rise.

    Example:
        >>> round(windowed_plasticity([0.9, 0.4, 0.8], window=2), 4)
        0.4
    """
    check_count("windowed_plasticity", "window", window)
    values = [float(value) for value in accuracy]
    if not all(map(math.isfinite, values)):
        raise ValueError("windowed_plasticity: accuracies hold NaN or inf; leave those evaluations out.")
    gains = (later - min(values[max(0, end - window + 1) : end + 1]) for end, later in enumerate(values))
    return max(0.0, *gains) if values else 0.0


def worst_case_accuracy(
    accuracy: Float[Tensor, "evaluations tasks"], current: Int[Tensor, " evaluations"]
) -> tuple[Float[Tensor, " evaluations"], Float[Tensor, " evaluations"]]:
    """The average minimum accuracy of learnt tasks, and the worst-case accuracy, after each evaluation.

    A task's minimum is over the evaluations since its training ended. While the k-th task (from 1) is learnt, the worst
    case is ``A_k / k + (1 - 1/k)`` times the average of the minima of the earlier tasks. `stability_gap` tells how far
    a minimum is below the accuracy at a task's end.

    Args:
        accuracy: [t, tasks] the accuracy of every task at every evaluation; tasks not yet learnt don't count.
        current: [t] the number of the current task, from 0, never falling.

    Returns:
        The average minima, 0 during the first task; the worst-case accuracies.

    Raises:
        ValueError: shapes that do not fit; task numbers that don't exist or that fall; NaN.

    Source:
        De Lange, van de Ven, Tuytelaars, 2023, arXiv:2205.13452.

    Example:
        >>> minima, worst = worst_case_accuracy(torch.tensor([[0.9, 0.0], [0.5, 0.7]]), torch.tensor([0, 1]))
        >>> minima.tolist(), [round(value, 4) for value in worst.tolist()]
        ([0.0, 0.5], [0.9, 0.6])
    """
    _check("worst_case_accuracy", accuracy, current)
    tasks = torch.arange(accuracy.shape[1], device=accuracy.device)
    learnt = tasks < current.unsqueeze(1)
    lowest = torch.where(learnt, accuracy, torch.inf).cummin(dim=0).values
    before = current.to(accuracy.dtype)
    minima = torch.where(learnt, lowest, 0.0).sum(dim=1) / before.clamp(min=1)
    own = accuracy.gather(1, current.unsqueeze(1)).squeeze(1)
    return minima, own / (before + 1) + before / (before + 1) * minima


def stability_gap(
    accuracy: Float[Tensor, "evaluations tasks"], current: Int[Tensor, " evaluations"]
) -> Float[Tensor, " evaluations"]:
    """The average fall of learnt tasks' accuracy below that at their ends, after each evaluation.

    A task's end is the last evaluation while it was current. Its fall is the distance to the lowest accuracy since
    then, even if the accuracy has recovered; 0 if it only rose.

    Args:
        accuracy: [t, tasks] the accuracy of every task at every evaluation; tasks not yet learnt don't count.
        current: [t] the number of the current task, from 0, never falling.

    Returns:
        The average falls, 0 during the first task.

    Raises:
        ValueError: shapes that do not fit; task numbers that don't exist or that fall; NaN.

    Source:
        De Lange, van de Ven, Tuytelaars, 2023, arXiv:2205.13452, which names the phenomenon and gives the minima.

    Example:
        >>> accuracy = torch.tensor([[0.9, 0.0], [0.5, 0.7], [0.8, 0.8]])
        >>> [round(value, 4) for value in stability_gap(accuracy, torch.tensor([0, 1, 1])).tolist()]
        [0.0, 0.4, 0.4]
    """
    _check("stability_gap", accuracy, current)
    tasks = torch.arange(accuracy.shape[1], device=accuracy.device)
    learnt = tasks < current.unsqueeze(1)
    lowest = torch.where(learnt, accuracy, torch.inf).cummin(dim=0).values
    # A task that was never current has no end, so it has no fall.
    times = torch.arange(len(current), device=accuracy.device).unsqueeze(1)
    last = torch.where(current.unsqueeze(1) == tasks, times, -1).amax(dim=0)
    ends = torch.where(last >= 0, accuracy.gather(0, last.clamp(min=0).unsqueeze(0)).squeeze(0), -torch.inf)
    falls = torch.where(learnt, (ends - lowest).clamp(min=0), 0.0)
    return falls.sum(dim=1) / current.to(accuracy.dtype).clamp(min=1)


def _check(who: str, accuracy: Tensor, current: Tensor) -> None:
    if accuracy.ndim != 2 or len(accuracy) == 0 or current.shape != accuracy.shape[:1] or current.is_floating_point():
        raise ValueError(
            f"{who}: accuracy of shape {list(accuracy.shape)} came with current of shape {list(current.shape)} and "
            f"dtype {current.dtype}; give [evaluations, tasks], at least one, and the current task's number at each."
        )
    if int(current.min()) < 0 or int(current.max()) >= accuracy.shape[1] or bool((current.diff() < 0).any()):
        raise ValueError(
            f"{who}: current tasks {current.tolist()} came for {accuracy.shape[1]} tasks; give numbers from 0 on that "
            "never fall."
        )
    if not bool(accuracy.isfinite().all()):
        raise ValueError(f"{who}: accuracies hold NaN or inf; leave those evaluations out.")
