"""Adaptive gradient modulation: of two modalities, the one that is ahead learns slower."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.networks.calls import in_evaluation
from lightning_losses.numerics.checks import check_floating, check_number
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.rows import classification_rows, pick
from lightning_losses.parallel.processes import total_of_all

_WHO = "adaptive_gradient_modulation"
# The least probability of the label, as the authors have it.
_LEAST = 1e-8


@dataclass(eq=False)
class _Factors:
    """What the gradients of a step's two branches are multiplied by; None until the step was measured."""

    coefficients: Tensor | None = None


class _ScaleGradient(torch.autograd.Function):
    """Returns its input, and multiplies the gradient by a factor that is known when the backward pass begins."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factors: _Factors, branch: int) -> Tensor:
        ctx.factors, ctx.branch = factors, branch
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        coefficients = ctx.factors.coefficients
        return gradient if coefficients is None else gradient * coefficients[ctx.branch].to(gradient), None, None


class AdaptiveGradientModulation(nn.Module):
    """Adaptive gradient modulation: of two modalities, the one that is ahead learns slower.

    The branches' outputs pass through it on their way to the head; their values stay, and the gradients that flow back
    into branch m are multiplied by ``exp(α (exp(R_o - R_m) - exp(s_o - s_m)))``. Here s_m is the cross-entropy of what
    modality m alone contributes to the logits, o the other modality, and R the means of s over the steps before. So a
    modality that fits better than it used to, compared with the other, is slowed, and the other hastened.

    What a modality contributes is ``φ_1 = (f(x, y) - f(0, y) + f(x, 0)) / 2``, and likewise φ_2: together they are the
    logits f(x, y). That takes two more forward passes, without gradient: `one_modality_at_a_time`.

    The scores are means over the samples of all processes. Each batch of an accumulated step has its own coefficients.
    A step that calls no `measure`, such as those after the authors' first 20 epochs, has the gradients that it had.

    Args:
        alpha: α, at least 0; 0 changes nothing.
        largest: the most that a coefficient may be, at least 1; the authors have no such bound.
        ignore_index: samples with this target don't count.

    Attributes:
        running_scores: [2] R, saved with the network.
        updates: [] the number of steps that R is the mean of.

    Raises:
        ValueError: numbers out of range.

    Source:
        Li, Li, Hu, Lei, Li, Zhang, 2023, "Boosting Multi-modal Model Performance with Adaptive Gradient Modulation",
        arXiv:2308.07686, and its code lihong2303/AGM_ICCV2023, which has two modalities too.

    Example:
        >>> modulation = AdaptiveGradientModulation()
        >>> sound, image = torch.ones(4, 2, requires_grad=True), torch.ones(4, 2, requires_grad=True)
        >>> first, second = modulation(sound, image)
        >>> logits, target = first + second, torch.tensor([0, 1, 0, 1])
        >>> right = 9.0 * torch.eye(2)[target]
        >>> coefficients = modulation.measure(logits.detach() + right, right, torch.zeros(4, 2), target)
        >>> bool(coefficients[0] < 1 < coefficients[1])
        True
        >>> logits.sum().backward()
        >>> bool((sound.grad == coefficients[0]).all())
        True
    """

    running_scores: Float[Tensor, "2"]
    updates: Int[Tensor, ""]

    def __init__(self, alpha: float = 1.0, *, largest: float = 100.0, ignore_index: int = -100) -> None:
        super().__init__()
        check_number(_WHO, "alpha", alpha, least=0)
        check_number(_WHO, "largest", largest, least=1)
        self.alpha, self.largest, self.ignore_index = alpha, largest, ignore_index
        self.register_buffer("running_scores", torch.zeros(2))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._factors = _Factors()

    def forward(self, first: Float[Tensor, "..."], second: Float[Tensor, "..."]) -> tuple[Tensor, Tensor]:
        """The two branches' outputs; in training their gradients are scaled by what `measure` then finds."""
        if not (self.training and torch.is_grad_enabled()):
            return first, second
        self._factors = _Factors()
        return (
            _ScaleGradient.apply(first, self._factors, 0),
            _ScaleGradient.apply(second, self._factors, 1),
        )

    @torch.no_grad()
    def measure(
        self,
        logits: Float[Tensor, "batch classes"],
        only_first: Float[Tensor, "batch classes"],
        only_second: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"],
    ) -> Float[Tensor, "2"]:
        """Set the coefficients of the latest forward pass, before its backward pass; all processes call it at once.

        Args:
            logits: [B, C] of both modalities, f(x, y).
            only_first: [B, C] f(x, 0).
            only_second: [B, C] f(0, y).
            target: [B] class indices.

        Returns:
            [2] the coefficients; both 1 where no sample has a target, and where a score is not a number, which R leaves
            out.

        Raises:
            ValueError: shapes or dtypes that do not fit.
        """
        for name, alone in (("only_first", only_first), ("only_second", only_second)):
            check_floating(_WHO, name, alone)
            if alone.shape != logits.shape:
                raise ValueError(
                    f"{_WHO}: {name} of shape {list(alone.shape)} came with logits of shape {list(logits.shape)}; give "
                    "the logits of the same samples."
                )
        both, apart = full_precision(logits), full_precision(only_first) - full_precision(only_second)
        first, second = self._score((both + apart) / 2, target), self._score((both - apart) / 2, target)
        totals = total_of_all(torch.stack([first.total, second.total, first.samples]))
        scores = totals[:2] / totals[2].clamp(min=1)
        known = (totals[2] > 0) & scores.isfinite().all()
        running = self.running_scores.to(scores)
        ahead = (running.flip(0) - running).exp() - (scores.flip(0) - scores).exp()
        coefficients = (self.alpha * ahead).clamp(max=math.log(self.largest)).exp()
        coefficients = torch.where(known, coefficients, 1.0)
        self.updates += known
        moved = running + (scores - running) / self.updates.clamp(min=1)
        self.running_scores.copy_(torch.where(known, moved, running))
        self._factors.coefficients = coefficients
        return coefficients

    def _score(self, logits: Tensor, target: Tensor) -> "_Score":
        """The sum of the labels' -log p, and the number of samples that have one."""
        rows = classification_rows(_WHO, logits, target, self.ignore_index)
        if rows.target is None or rows.target.is_floating_point():
            raise ValueError(f"{_WHO}: a target of probabilities came; give int64 class indices.")
        value = (-pick(log_probabilities(rows.logits), rows.target)).clamp(max=-math.log(_LEAST))
        kept = torch.ones_like(value) if rows.kept is None else rows.kept.to(value)
        return _Score((value * kept).sum(), kept.sum())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the module as torch does, but keep its scores out of half precision, where a mean would stand still."""
        scores = self.running_scores
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.running_scores.dtype in (torch.float16, torch.bfloat16) and not scores.is_meta:
            self.running_scores = scores.to(self.running_scores.device)
        return self

    def extra_repr(self) -> str:
        """The settings."""
        return f"alpha={self.alpha}, largest={self.largest}, ignore_index={self.ignore_index}"


class _Score(NamedTuple):
    total: Float[Tensor, ""]
    samples: Float[Tensor, ""]


@torch.no_grad()
def one_modality_at_a_time(network: nn.Module, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """``f(x, 0)`` and ``f(0, y)``: a network of two inputs, in evaluation mode, with zeros for one of them.

    Args:
        network: is called on both inputs; it may be the LightningModule itself.
        first: x.
        second: y.

    Example:
        >>> bilinear = nn.Bilinear(1, 1, 1, bias=False)
        >>> [output.item() == 0 for output in one_modality_at_a_time(bilinear, torch.ones(1, 1), torch.ones(1, 1))]
        [True, True]
    """
    with in_evaluation(network):
        return network(first, torch.zeros_like(second)), network(torch.zeros_like(first), second)
