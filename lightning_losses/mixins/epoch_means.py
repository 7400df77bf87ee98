"""Means over an epoch of what every step yields, at the price of one addition a step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class EpochMeans:
    """Weighted sums of named scalars, kept on their device: nothing waits for it, and nothing is copied to the host.

    Example:
        >>> means = EpochMeans()
        >>> means.add({"loss": torch.tensor(1.0)}, weight=3)
        >>> means.add({"loss": torch.tensor(2.0)}, weight=1)
        >>> means.take()
        ({'loss': tensor(1.2500)}, 4)
        >>> means.take()
        ({}, 0)
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        self._weight = 0

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor], weight: int) -> None:
        """Add the values of a step, the same names as before, weighted by its samples."""
        row = torch.stack(list(values.values())) * weight
        if self._sums is None or self._names != tuple(values):
            # In double precision, where the device has it: an epoch may have many steps.
            self._names, self._weight = tuple(values), 0
            self._sums = torch.zeros_like(row, dtype=None if row.device.type == "mps" else torch.float64)
        self._sums += row
        self._weight += weight

    def state_dict(self) -> dict[str, Any]:
        """What was added since it began; empty, if nothing was."""
        if self._sums is None:
            return {}
        return {"names": list(self._names), "sums": self._sums.cpu(), "weight": self._weight}

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Go on adding to what a checkpoint holds."""
        self._names, self._weight = tuple(state_dict["names"]), state_dict["weight"]
        self._sums = state_dict["sums"].to(device)

    def take(self) -> tuple[dict[str, Tensor], int]:
        """The means of what was added and its whole weight; then begin anew."""
        if self._sums is None or self._weight == 0:
            return {}, 0
        means = (self._sums / self._weight).to(torch.get_default_dtype())
        weight, self._sums, self._weight = self._weight, None, 0
        return dict(zip(self._names, means.unbind(), strict=True)), weight
