"""The states of all generators that a training step may draw from."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomStates:
    """The states of Python's, numpy's and torch's generators, and of the device's.

    Example:
        >>> before = RandomStates.now(torch.device("cpu"))
        >>> first = torch.rand(2)
        >>> before.restore()
        >>> torch.equal(torch.rand(2), first)
        True
    """

    python: Any
    numpy: Any
    host: Tensor
    device: torch.device
    on_device: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "RandomStates":
        """The states as they are."""
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), device, on_device)

    def restore(self) -> None:
        """Have the generators go on from here."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.host)
        if self.on_device is not None:
            torch.cuda.set_rng_state(self.on_device, self.device)
