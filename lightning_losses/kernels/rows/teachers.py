"""Where a teacher's scores of a chunk come from: its head, or a cache of its largest logits."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.products import product, working_dtype


class Teacher(Protocol):
    """Where the teacher's scores of a chunk come from."""

    def select(self, index: Int[Tensor, " kept"]) -> "Teacher":
        """The same for some of the rows."""

    def scores(self, rows: slice, tiles: list[slice], dtype: torch.dtype) -> Iterator[Tensor]:
        """The scores of a chunk of rows, tile by tile of the vocabulary, in `dtype` or that of its products."""


class TeacherHead(NamedTuple):
    """A teacher as hidden states and head: a chunk of its logits is computed when it is needed.

    Attributes:
        hidden: [N, E] the teacher's hidden states, whose width may differ from the student's.
        weight: [V, E] its head's weight.
        bias: [V], or None.
    """

    hidden: Float[Tensor, "tokens width"]
    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, " vocabulary"] | None = None

    def select(self, index: Int[Tensor, " kept"]) -> "TeacherHead":
        """The same for some of the rows."""
        return self._replace(hidden=self.hidden[index])

    def scores(self, rows: slice, tiles: list[slice], dtype: torch.dtype) -> Iterator[Tensor]:
        """The scores of a chunk of rows, tile by tile."""
        working = working_dtype(self.weight)
        e = self.hidden[rows].to(working)
        for tile in tiles:
            scores = product(e, self.weight[tile].to(working))
            yield scores if self.bias is None else scores.to(dtype).add_(self.bias[tile])


class TopKLogits(NamedTuple):
    """A teacher as a cache of its largest logits: the other classes have no probability.

    Attributes:
        values: [..., k] logits.
        classes: [..., k] int64, the classes they belong to.
    """

    values: Float[Tensor, "*tokens k"]
    classes: Int[Tensor, "*tokens k"]

    def select(self, index: Int[Tensor, " kept"]) -> "TopKLogits":
        """The same for some of the rows."""
        return TopKLogits(self.values[index], self.classes[index])

    def scores(self, rows: slice, tiles: list[slice], dtype: torch.dtype) -> Iterator[Tensor]:
        """The scores of a chunk of rows, tile by tile."""
        values = self.values[rows].to(dtype)
        whole = values.new_full((len(values), tiles[-1].stop), -torch.inf).scatter_(1, self.classes[rows], values)
        for tile in tiles:
            yield whole[:, tile]
