"""Learning rates that warm up."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_losses.numerics.checks import check_number


def linear_warm_up(optimizer: Optimizer, *, steps: int = 10) -> LambdaLR:
    """A schedule for every optimizer step that reaches the full learning rate at the given step.

    Step k (from 1) uses ``k / steps`` of the learning rate.

    Args:
        optimizer: the optimizer.
        steps: number of warm-up steps, at least 1.

    Raises:
        ValueError: fewer than 1 step.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = linear_warm_up(optimizer, steps=4)
        >>> schedule.get_last_lr()
        [0.25]
    """
    check_number("linear_warm_up", "steps", steps, least=1)
    return LambdaLR(optimizer, lambda done: min((done + 1) / steps, 1.0))


def warmup_cosine(optimizer: Optimizer, *, total_steps: int, warmup: float = 0.1, final: float = 0.0) -> LambdaLR:
    """A linear warm-up, then half a cosine down.

    Args:
        optimizer: the optimizer; its learning rate is the maximum.
        total_steps: the optimizer steps of the run.
        warmup: the fraction of steps in the warm-up, in [0, 1).
        final: the last learning rate as a fraction of the maximum, in [0, 1].

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = warmup_cosine(optimizer, total_steps=10, warmup=0.2)
        >>> schedule.get_last_lr()
        [0.5]
    """
    if not 0 <= warmup < 1 or not 0 <= final <= 1:
        raise ValueError(
            f"warmup_cosine: warmup={warmup!r} and final={final!r} came; give 0 <= warmup < 1 and 0 <= final <= 1."
        )
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = min((step - rising) / max(total_steps - rising, 1), 1.0)
        return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, factor)
