"""Sources of a teacher's scores of a chunk: its head, a cache of its largest logits, or all its logits."""

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.kernels.products import padded_rows
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.products import product, working_dtype


class Teacher(Protocol):
    """A source of the teacher's scores of a chunk."""

    def select(self, index: Int[Tensor, " kept"]) -> "Teacher":
        """The same teacher for some of the rows."""

    def masked(self, kept: Bool[Tensor, " rows"]) -> "Teacher":
        """The same teacher, safe for rows that aren't kept: their contents are never used as positions."""

    def scores(self, rows: slice, tiles: list[slice], dtype: torch.dtype) -> Iterator[Tensor]:
        """The scores of a chunk of rows in tiles of the vocabulary, in `dtype` or that of the products."""

    def matrices(self, cuts: list[slice], vocabulary: int) -> Iterator[Tensor]:
        """The scores of each chunk of rows without the bias; each matrix is valid until the next one is requested."""

    @property
    def bias(self) -> Float[Tensor, " vocabulary"] | None:
        """The bias that `matrices` leaves out."""


class TeacherHead(NamedTuple):
    """A teacher given by hidden states and head; its logits are computed chunk by chunk.

    Attributes:
        hidden: [N, E] the teacher's hidden states, whose width may differ from the student's.
        weight: [V, E] its head's weight.
        bias: [V], or None.
    """

    hidden: Float[Tensor, "tokens width"]
    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, " vocabulary"] | None = None

    def select(self, index: Int[Tensor, " kept"]) -> "TeacherHead":
        """The same teacher for some of the rows."""
        return self._replace(hidden=self.hidden[index])

    def masked(self, kept: Bool[Tensor, " rows"]) -> "TeacherHead":
        """The same."""
        return self

    def scores(self, rows: slice, tiles: list[slice], dtype: torch.dtype) -> Iterator[Tensor]:
        """The scores of a chunk of rows, tile by tile."""
        working = working_dtype(self.weight)
        e = self.hidden[rows].to(working)
        for tile in tiles:
            scores = product(e, self.weight[tile].to(working))
            yield scores if self.bias is None else scores.to(dtype).add_(self.bias[tile])

    def matrices(self, cuts: list[slice], vocabulary: int) -> Iterator[Tensor]:
        """The scores of each chunk of rows without the bias."""
        space = padded_rows(self.weight, largest(cuts), vocabulary)
        for rows in cuts:
            yield torch.mm(self.hidden[rows], self.weight.t(), out=space[: rows.stop - rows.start])


class TeacherLogits(NamedTuple):
    """A teacher given by all its logits; they are read without a copy.

    Attributes:
        values: [..., V] logits.
    """

    values: Float[Tensor, "*tokens vocabulary"]

    @property
    def bias(self) -> None:
        """None: logits already include it."""

    def select(self, index: Int[Tensor, " kept"]) -> "TeacherLogits":
        """The same teacher for some of the rows, copied."""
        return TeacherLogits(self.values[index])

    def masked(self, kept: Bool[Tensor, " rows"]) -> "TeacherLogits":
        """The same."""
        return self

    def scores(self, rows: slice, tiles: list[slice], dtype: torch.dtype) -> Iterator[Tensor]:
        """The scores of a chunk of rows, tile by tile."""
        for tile in tiles:
            yield self.values[rows, tile]

    def matrices(self, cuts: list[slice], vocabulary: int) -> Iterator[Tensor]:
        """The scores of each chunk of rows."""
        for rows in cuts:
            chunk = self.values[rows]
            yield chunk if chunk.stride(1) == 1 else chunk.contiguous()


class TopKLogits(NamedTuple):
    """A teacher given by its largest logits, and one logit for all other classes.

    Attributes:
        values: [..., k] logits.
        classes: [..., k] int64, the classes of these logits.
        rest: [...] the logit of each other class, as made by `of` and `cache_teacher`; None if these classes have no
            probability.
    """

    values: Float[Tensor, "*tokens k"]
    classes: Int[Tensor, "*tokens k"]
    rest: Float[Tensor, "*tokens"] | None = None

    @classmethod
    def of(cls, logits: Float[Tensor, "*tokens vocabulary"], k: int, temperature: float = 1.0) -> "TopKLogits":
        """The k largest logits, and one for all other classes that keeps their total probability at a temperature.

        For half precision both are in float32, because rounding the logit of the others would change their probability.

        Example:
            >>> TopKLogits.of(torch.tensor([3.0, 0.0, 0.0]), 1)
            TopKLogits(values=tensor([3.]), classes=tensor([0]), rest=tensor(0.))
        """
        values, classes = logits.topk(k, dim=-1)
        values, logits = full_precision(values), full_precision(logits)
        count = logits.shape[-1] - k
        if count == 0:
            return cls(values, classes, torch.full_like(values[..., 0], -torch.inf))
        others = logits.scatter(-1, classes, -torch.inf)
        return cls(values, classes, temperature * (torch.logsumexp(others / temperature, dim=-1) - math.log(count)))

    def select(self, index: Int[Tensor, " kept"]) -> "TopKLogits":
        """The same teacher for some of the rows."""
        return TopKLogits(*(None if part is None else part[index] for part in self))  # type: ignore[arg-type]

    @property
    def bias(self) -> None:
        """None: logits already include it."""

    def masked(self, kept: Bool[Tensor, " rows"]) -> "TopKLogits":
        """The same teacher, with class 0 for all classes of rows that aren't kept."""
        return self._replace(classes=torch.where(kept.unsqueeze(1), self.classes, 0))

    def scores(self, rows: slice, tiles: list[slice], dtype: torch.dtype) -> Iterator[Tensor]:
        """The scores of a chunk of rows, tile by tile."""
        values = self.values[rows].to(dtype)
        outside = values.new_full((), -torch.inf) if self.rest is None else self.rest[rows].to(dtype).unsqueeze(1)
        whole = outside.expand(len(values), tiles[-1].stop).scatter(1, self.classes[rows], values)
        for tile in tiles:
            yield whole[:, tile]

    def matrices(self, cuts: list[slice], vocabulary: int) -> Iterator[Tensor]:
        """The scores of each chunk of rows."""
        space = padded_rows(self.values, largest(cuts), vocabulary)
        if self.rest is None:
            space.fill_(-torch.inf)
        for rows in cuts:
            chunk = space[: rows.stop - rows.start]
            if self.rest is not None:
                chunk.copy_(self.rest[rows].unsqueeze(1))
            yield chunk.scatter_(1, self.classes[rows], self.values[rows])
            if self.rest is None:
                # Reset only the written entries; filling the whole matrix would cost a pass.
                chunk.scatter_(1, self.classes[rows], -torch.inf)


def largest(cuts: list[slice]) -> int:
    """The number of rows in the largest chunk; 0 without chunks."""
    return max((rows.stop - rows.start for rows in cuts), default=0)
