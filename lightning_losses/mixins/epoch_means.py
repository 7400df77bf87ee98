"""Epoch means of values of every step, at the cost of a few additions per step."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.parallel.processes import total_of_all, values_of_all

# Steps that are summed together.
_TOGETHER = 64


class Means(NamedTuple):
    """Means over all samples of all processes; 0 without samples, like the mean of a loss.

    Attributes:
        total: the mean of the steps' weighted sums.
        parts: the mean of each part over the steps that had it.
        samples: the number of samples of each part.
    """

    total: float
    parts: dict[str, float]
    samples: dict[str, float]


@dataclass(eq=False)
class _Step:
    """The values that one step added: its parts by name, and the step's identity."""

    batch: Hashable
    step: int | None
    parts: dict[str, tuple[Tensor, float | Tensor, Tensor]]


class EpochMeans:
    """Sums of named scalars over their samples, kept on their device without synchronisation.

    Steps may have different parts, for example if two objectives alternate. Each part's mean is over the samples of the
    steps that had it; the total is the mean, over all samples, of the weighted sum of their step's parts.

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
        # Keyed by the names of a step's parts.
        self._sums: dict[tuple[str, ...], Float[Tensor, "3 parts"]] = {}
        self._waiting: list[_Step] = []

    def add(
        self,
        parts: Mapping[str, Tensor],
        weights: Mapping[str, float | Tensor],
        samples: Mapping[str, Tensor],
        *,
        batch: Hashable = None,
        step: int | None = None,
    ) -> None:
        """Add a step's values.

        Args:
            parts: each the mean over its samples.
            weights: the factor of each part in the total.
            samples: of each part.
            batch: the parts' batch; further calls with the same batch add to the same step.
            step: the parts' optimizer step, by which `leave_out` finds them.
        """
        added = {name: (part.detach(), weights[name], samples[name]) for name, part in parts.items()}
        last = self._waiting[-1] if self._waiting else None
        if last is not None and batch is not None and last.batch == batch and not last.parts.keys() & added.keys():
            last.parts |= added
            return
        # Summing the few numbers of one step takes longer than a small loss. Steps that may be left out wait.
        if len(self._waiting) >= _TOGETHER and (step is None or last is None or last.step != step):
            self._add_up()
        self._waiting.append(_Step(batch, step, added))

    def leave_out(self, step: int) -> None:
        """Forget the values of an optimizer step, which must be the latest."""
        self._waiting = [one for one in self._waiting if one.step != step]

    @torch.no_grad()
    def _add_up(self) -> None:
        steps, self._waiting = self._waiting, []
        alike: dict[tuple[str, ...], list[_Step]] = {}
        for one in steps:
            alike.setdefault(tuple(one.parts), []).append(one)
        for names, group in alike.items():
            sums = _sums([list(one.parts.values()) for one in group])
            self._sums[names] = self._sums[names] + sums if names in self._sums else sums

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last `take`; empty if nothing was added."""
        self._add_up()
        held = [{"names": list(names), "sums": sums.cpu().clone()} for names, sums in self._sums.items()]
        return {"steps": held} if held else {}

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Continue from the sums in a checkpoint."""
        self._sums = {tuple(held["names"]): held["sums"].to(device, copy=True) for held in state_dict["steps"]}
        self._waiting.clear()

    def take(self, device: torch.device | None = None) -> Means | None:
        """The means over all processes, which must all call it; then start again. None if nothing was added.

        Args:
            device: where the processes add up, for one that has nothing of its own to add; the CPU if None.
        """
        self._add_up()
        own, self._sums = self._sums, {}
        # Other processes may have had other steps.
        kinds = list(dict.fromkeys(names for kinds in values_of_all(list(own)) for names in kinds))
        if not kinds:
            return None
        totals, parts = [], dict[str, Tensor]()
        for names in kinds:
            sums = total_of_all(own.get(names, torch.zeros(3, len(names), dtype=torch.float64, device=device)))
            samples = sums[2]
            totals.append(torch.stack([(sums[1] / torch.where(samples > 0, samples, 1.0)).sum(), samples.max()]))
            for name, column in zip(names, sums[[0, 2]].T, strict=True):
                parts[name] = parts[name] + column if name in parts else column
        total, samples = torch.stack(totals).T
        share = samples / torch.where(samples.sum() > 0, samples.sum(), 1.0)
        values = {name: (float(value), float(count)) for name, (value, count) in parts.items()}
        return Means(
            float((total * share).sum()),
            {name: value / (count or 1.0) for name, (value, count) in values.items()},
            {name: count for name, (_, count) in values.items()},
        )


def _sums(steps: list[list[tuple[Tensor, float | Tensor, Tensor]]]) -> Float[Tensor, "3 parts"]:
    """For steps with the same parts, by part: values times samples, the same times weights, and samples."""
    shape = len(steps), len(steps[0])
    flat = [part for step in steps for part in step]
    device = flat[0][0].device
    # In double precision if the device has it, because an epoch may have many steps.
    wide = torch.float32 if device.type == "mps" else torch.float64
    values = torch.stack([value for value, _, _ in flat]).to(wide).view(shape)
    weights = _numbers([weight for _, weight, _ in flat], wide, device).view(shape)
    counts = torch.stack([count for _, _, count in flat]).to(values).view(shape)
    # A part without samples counts 0, even if it is NaN.
    values = torch.where(counts > 0, values * counts, 0.0)
    return torch.stack([values.sum(dim=0), (weights * values).sum(dim=0), counts.sum(dim=0)])


def _numbers(values: list[float | Tensor], dtype: torch.dtype, device: torch.device) -> Float[Tensor, " values"]:
    """Numbers as a tensor, copied to the device in one go; tensors among them are there already."""
    if any(isinstance(value, Tensor) for value in values):
        return torch.stack([torch.as_tensor(value, dtype=dtype, device=device) for value in values])
    return torch.tensor(values, dtype=dtype).to(device)
