"""Means over an epoch of what every step yields, at the price of a few additions a step."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.parallel.processes import total_of_all

# Of so many steps.
_TOGETHER = 64


class Means(NamedTuple):
    """Means over all samples of all processes; 0 where there were none, as a loss is.

    Attributes:
        total: of the weighted sum of the parts.
        parts: of each part.
        samples: how many each part's mean is over.
    """

    total: float
    parts: dict[str, float]
    samples: dict[str, float]


class EpochMeans:
    """Sums of named scalars over their samples, kept on their device: nothing waits for it, or is copied to the host.

    Example:
        >>> means = EpochMeans()
        >>> means.add({"ce": torch.tensor(1.0)}, {"ce": 2.0}, {"ce": torch.tensor(3)})
        >>> means.add({"ce": torch.tensor(2.0)}, {"ce": 2.0}, {"ce": torch.tensor(1)})
        >>> means.take()
        Means(total=2.5, parts={'ce': 1.25}, samples={'ce': 4.0})
        >>> means.take() is None
        True
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums: Float[Tensor, "3 parts"] | None = None
        self._waiting: list[tuple[list[Tensor], list[float], list[Tensor]]] = []

    def add(self, parts: Mapping[str, Tensor], weights: Mapping[str, float], samples: Mapping[str, Tensor]) -> None:
        """Add a step's values, the same names as before.

        Args:
            parts: each the mean over its samples.
            weights: what the total multiplies each by.
            samples: of each.
        """
        if self._names != tuple(parts):
            self._names, self._sums = tuple(parts), None
            self._waiting.clear()
        values = [part.detach() for part in parts.values()]
        self._waiting.append((values, [weights[name] for name in parts], [samples[name] for name in parts]))
        # Adding up a step's few numbers takes longer than a small loss.
        if len(self._waiting) >= _TOGETHER:
            self._add_up()

    @torch.no_grad()
    def _add_up(self) -> None:
        if not self._waiting:
            return
        steps, self._waiting = self._waiting, []
        shape = len(steps), len(self._names)
        first = steps[0][0][0]
        # In double precision, where the device has it: an epoch may have many steps.
        wide = torch.float32 if first.device.type == "mps" else torch.float64
        values = torch.stack([value for step, _, _ in steps for value in step]).to(wide).view(shape)
        weights = torch.tensor([step for _, step, _ in steps], dtype=wide).to(first.device)
        counts = torch.stack([count for _, _, step in steps for count in step]).to(values).view(shape)
        # A part without samples is 0, whatever else it may be.
        values = torch.where(counts > 0, values * counts, 0.0)
        sums = torch.stack([values.sum(dim=0), (weights * values).sum(dim=0), counts.sum(dim=0)])
        self._sums = sums if self._sums is None else self._sums + sums

    def state_dict(self) -> dict[str, Any]:
        """What was added since it began; empty, if nothing was."""
        self._add_up()
        return {} if self._sums is None else {"names": list(self._names), "sums": self._sums.cpu().clone()}

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Go on adding to what a checkpoint holds."""
        self._names, self._sums = tuple(state_dict["names"]), state_dict["sums"].to(device, copy=True)
        self._waiting.clear()

    def take(self) -> Means | None:
        """The means of what was added, on all processes, which ask at once; then begin anew. None if nothing was."""
        self._add_up()
        if self._sums is None:
            return None
        sums, self._sums = total_of_all(self._sums), None
        samples = sums[2]
        parts, weighted = sums[:2] / torch.where(samples > 0, samples, 1.0)
        return Means(
            float(weighted.sum()),
            dict(zip(self._names, parts.tolist(), strict=True)),
            dict(zip(self._names, samples.tolist(), strict=True)),
        )
