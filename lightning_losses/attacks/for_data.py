"""An attack that knows how a data module normalised its inputs."""

import copy
from typing import Any, TypeVar

from lightning_losses.attacks.attack import Attack

A = TypeVar("A", bound=Attack)


def for_data(attack: A, data: Any) -> A:
    """The attack with the `mean` and `std` of a data module, where it has bounds and none of its own.

    The library's image data have them as `input_mean` and `input_deviation`; with other data, and with none, the attack
    stays as it is.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from lightning_losses.attacks import PGD
        >>> data = SimpleNamespace(input_mean=torch.tensor([0.5]), input_deviation=torch.tensor([0.25]))
        >>> for_data(PGD(), data).std
        (0.25,)
    """
    mean, deviation = (getattr(data, name, None) for name in ("input_mean", "input_deviation"))
    if attack.bounds is None or attack.mean is not None or mean is None or deviation is None:
        return attack
    told = copy.copy(attack)
    told.mean, told.std = tuple(mean.flatten().tolist()), tuple(deviation.flatten().tolist())
    return told
