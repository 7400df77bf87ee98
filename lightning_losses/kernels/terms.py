"""The terms of one row's loss and their coefficients, shared by all implementations of `linear_cross_entropy`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import debugging

RowTransform = Callable[[Float[Tensor, " rows"]], Float[Tensor, " rows"]]
"""Rows' cross-entropies to rows' losses, each by itself, differentiable."""


@dataclass(frozen=True)
class Terms:
    """The options that shape one row's loss.

    Attributes:
        classes: V, the size of the whole vocabulary.
        label_smoothing: ε: a row's loss is ``(1 - ε) w_y (lse - l_y) + ε/n sum_v w_v (lse - l_v)``, over the n classes
            that are not masked.
        softcap: s: scores become ``s tanh(l / s)``.
        temperature: τ: the divisor of the (softcapped) scores.
        row_function: g: a row's loss is ``w_y g(lse - l_y)``, without smoothing; None for the cross-entropy itself.
        class_weight: [V] w in float32 or float64, or None for 1.
        unmasked: [V] in float32 or float64, 0 for the classes that a bias of -inf masks, 1 for the others; None where
            smoothing is over all.
    """

    classes: int
    label_smoothing: float = 0.0
    softcap: float | None = None
    class_weight: Float[Tensor, " vocabulary"] | None = None
    temperature: float = 1.0
    row_function: RowTransform | None = None
    unmasked: Float[Tensor, " vocabulary"] | None = None

    @property
    def smoothing(self) -> float | Tensor:
        """``ε/n``: the factor of each class's part of the smoothing."""
        return self.label_smoothing / (self.classes if self.unmasked is None else self.unmasked.sum())

    @property
    def smoothing_mass(self) -> float | Tensor:
        """``ε/n sum_v w_v`` over the classes that are not masked."""
        weight = self.smoothing_weight()
        return self.label_smoothing if weight is None else self.smoothing * weight.sum()

    def smoothing_weight(self) -> Float[Tensor, " vocabulary"] | None:
        """``w_v``, 0 for masked classes; None where it is 1 for all."""
        if self.class_weight is None or self.unmasked is None:
            return self.unmasked if self.class_weight is None else self.class_weight
        return self.class_weight * self.unmasked

    def row_weight(self, target: Int[Tensor, " rows"]) -> float | Float[Tensor, " rows"]:
        """``w_y`` of each row."""
        return 1.0 if self.class_weight is None else self.class_weight[target]

    def cross_entropy(
        self,
        lse: Float[Tensor, " rows"],
        picked: Float[Tensor, " rows"],
        smooth: Float[Tensor, " rows"] | None,
        row_weight: float | Float[Tensor, " rows"],
    ) -> Float[Tensor, " rows"]:
        """A row's loss from its logsumexp, its target's score and ``smooth = sum_v w_v l_v``."""
        plain = lse - picked
        if self.row_function is not None:
            return row_weight * self.row_function(plain)
        # A weight of 0 times an infinite loss would be NaN.
        value = (1 - self.label_smoothing) * row_weight * plain if self.label_smoothing < 1 else torch.zeros_like(lse)
        if smooth is not None:
            value = value + (self.smoothing_mass * lse - self.smoothing * smooth)
        return value

    def target_factor(
        self, lse: Float[Tensor, " rows"], picked: Float[Tensor, " rows"], row_weight: float | Float[Tensor, " rows"]
    ) -> float | Float[Tensor, " rows"]:
        """Minus the derivative of a row's loss by its target's score: the factor of the one-hot in the gradient."""
        if self.row_function is None:
            return (1 - self.label_smoothing) * row_weight
        with torch.enable_grad():
            plain = (lse - picked).detach().requires_grad_()
            # Times 1, since a function may change its argument in place.
            (slope,) = torch.autograd.grad(self.row_function(1 * plain).sum(), plain)
        return slope * row_weight

    def probability_factor(self, target_factor: float | Float[Tensor, " rows"]) -> float | Float[Tensor, " rows"]:
        """The derivative of a row's loss by its logsumexp: the factor of the probabilities in the gradient."""
        return target_factor + self.smoothing_mass


def check_row_function(loss: str, function: RowTransform, like: Float[Tensor, "..."], wanted: bool) -> bool:
    """Whether a row function has tensors of its own that need a gradient; it is tried on two rows.

    Args:
        loss: the caller's name.
        function: the row function.
        like: a tensor of the rows' device and dtype.
        wanted: whether gradients will go through it.

    Raises:
        ValueError: a function that fails on two rows, or gives anything but a value for each, or values without a
            gradient; on a CPU and under `debug`, one whose value of a row depends on the other row.
    """
    # Made on the device; descending, so that cumulative sums, maxima and sorting show.
    rows = 3 - torch.arange(1, 3, device=like.device, dtype=like.dtype)
    compared = like.device.type == "cpu" or debugging()
    try:
        # Where the argument has no gradient, only a tensor of the function's own can give the values one.
        values = function(rows.clone())
        # Times 1, since a function may change its argument in place.
        sloped = function(1 * rows.clone().requires_grad_()) if wanted else None
        alone = [function(row.clone()) for row in (rows[:1], rows[1:])] if compared else []
    except RuntimeError as error:
        raise ValueError(
            f"{loss}: row_function came, which fails on two rows ({error}); give a differentiable function that takes "
            "the cross-entropies of any number of rows."
        ) from error
    if not all(isinstance(each, Tensor) for each in (values, *alone)) or (
        [each.shape for each in (values, *alone)] != [(2,), *((1,) for _ in alone)]
    ):
        raise ValueError(
            f"{loss}: row_function came, which does not give one value for each row; give an elementwise function of "
            "the rows' cross-entropies."
        )
    if sloped is not None and not sloped.requires_grad:
        raise ValueError(
            f"{loss}: row_function came, whose values have no gradient; give a differentiable function of the rows' "
            "cross-entropies, or call it under torch.no_grad()."
        )
    together, separate = values.detach().double(), [each.detach().double() for each in alone]
    if separate and not torch.allclose(together, torch.cat(separate), rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ValueError(
            f"{loss}: row_function came, which gives cross-entropies of 2 and 1 other values together than alone; give "
            "a function of each row's cross-entropy by itself, without randomness."
        )
    return values.requires_grad


def scores_of_kept(
    picked: Float[Tensor, " rows"], lse: Float[Tensor, " rows"], kept: Bool[Tensor, " rows"] | None
) -> Float[Tensor, " rows"]:
    """The targets' scores; for ignored rows, whose class 0 may be masked, a score with a cross-entropy of 1."""
    return picked if kept is None else torch.where(kept, picked, lse.detach() - 1)


class Exchange(Protocol):
    """Combines row statistics with those of the processes that hold the rest of the vocabulary."""

    def maximum(self, values: Tensor) -> Tensor:
        """The largest over the processes."""

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes."""


class Alone:
    """One process holds the whole vocabulary."""

    def maximum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def total(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values


def statistics_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of losses and row statistics: float64 for float64, float32 for the rest."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
