"""Losses that keep something of each training sample from one step to the next.

Such a loss stays a function of tensors: what was kept comes in under a name of the glossary, and `remember` says what
is to be kept instead. `ObjectiveMixin` holds the rows, finds them by the samples' `index` and writes them.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from lightning_losses.losses.kinds import RowLoss

# The rows of the batch's samples in a column, by its name.
Kept = Callable[[str], Tensor]
Columns = dict[str, Tensor]
Given = Mapping[str, Any]


class SampleMemory(Protocol):
    """What is kept of each training sample, and what a step is told of it."""

    kept_on: Literal["host", "device"]

    def fresh(self, given: Given) -> Columns:
        """The row, by columns, of a sample that was not seen yet; its shapes and dtypes are those of the columns."""

    def recall(self, kept: Kept, given: Given) -> Tensor:
        """What the step is told, from what was kept of its samples."""

    def remember(self, kept: Kept, given: Given) -> Columns:
        """[B, ...] what is kept of the step's samples from now on, of the columns that change."""


class RememberingLoss(RowLoss):
    """A loss with a value for each row, which is told what was kept of the row's sample.

    Args:
        kept_on: the memory that holds a row for each training sample: the "host"'s, or that of the "device" of the
            logits, which spares a copy in each step.

    Attributes:
        remembers: the name under which `forward` takes what was kept.
    """

    remembers: ClassVar[str]

    kept_on: Literal["host", "device"] = field(default="host", kw_only=True)

    @abstractmethod
    def fresh(self, given: Given) -> Columns:
        """The row of a sample that was not seen yet."""

    @abstractmethod
    def remember(self, kept: Kept, given: Given) -> Columns:
        """What is kept of the step's samples from now on."""

    def recall(self, kept: Kept, given: Given) -> Tensor:
        """What the step is told: the column of that name, if the loss says nothing else."""
        return kept(self.remembers)
