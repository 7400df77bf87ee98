"""Linear warm-up of the learning rate."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_losses.numerics.checks import check_number


def linear_warm_up(optimizer: Optimizer, *, steps: int = 10) -> LambdaLR:
    """A schedule, stepped every optimizer step, that reaches the full learning rate at the given step.

    Step k, from 1, runs at ``k / steps`` of the learning rate.

    Args:
        optimizer: whose learning rates to scale.
        steps: how many steps, at least 1.

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
