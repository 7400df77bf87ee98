"""Adaptive gradient modulation: of two modalities, the one that is ahead learns slower."""

import math
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.networks.calls import in_evaluation
from lightning_losses.networks.half_precision import buffers_in_full_precision
from lightning_losses.numerics.checks import check_floating, check_number
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.rows import classification_rows, pick
from lightning_losses.parallel.processes import total_of_all

_WHO = "adaptive_gradient_modulation"
# The least probability of the label, as the authors have it.
_LEAST = 1e-8


class AdaptiveGradientModulation(nn.Module):
    """Adaptive gradient modulation: of two modalities, the one that is ahead learns slower.

    The logits f(x, y) of two inputs are the sum of what each contributes, ``φ_1 = (f(x, y) - f(0, y) + f(x, 0)) / 2``
    and likewise φ_2. In training their values stay, and the gradient that flows back through φ_m is multiplied by
    ``exp(α min(exp(R_o - R_m) - exp(s_o - s_m), b))``: s_m is the cross-entropy of φ_m alone, o the other modality, and
    R the means of s over the steps before. So a modality that fits better than it used to, compared with the other, is
    slowed, and the other hastened. Where a network adds up two branches, each branch's gradient is multiplied.

    The scores are means over the samples of all processes, which must call it at once; each batch of an accumulated
    step has its own. In evaluation the logits pass through.

    Args:
        alpha: α, at least 0; 0 changes nothing.
        bound: b, above 0.
        ignore_index: samples with this target don't count.

    Attributes:
        running_scores: [2] R, saved with the network.
        updates: [] the number of steps that R is the mean of.

    Raises:
        ValueError: numbers out of range.

    Source:
        Li, Li, Hu, Lei, Li, Zhang, 2023, "Boosting Multi-modal Model Performance with Adaptive Gradient Modulation",
        arXiv:2308.07686, and its code lihong2303/AGM_ICCV2023 for two modalities, of whose scripts one has the bound 10
        and the others none.

    Example:
        >>> sound, image = torch.zeros(4, 2, requires_grad=True), torch.zeros(4, 2, requires_grad=True)
        >>> target = torch.tensor([0, 1, 0, 1])
        >>> of_sound, of_image = 9.0 * torch.eye(2)[target] + sound, image + 0.0
        >>> modulation = AdaptiveGradientModulation()
        >>> modulation(of_sound + of_image, of_sound, of_image, target).sum().backward()
        >>> bool((sound.grad < 1).all()), bool((image.grad > 1).all())
        (True, True)
    """

    running_scores: Float[Tensor, "2"]
    updates: Int[Tensor, ""]

    def __init__(self, alpha: float = 1.0, *, bound: float = 10.0, ignore_index: int = -100) -> None:
        super().__init__()
        check_number(_WHO, "alpha", alpha, least=0)
        check_number(_WHO, "bound", bound, above=0)
        self.alpha, self.bound, self.ignore_index = alpha, bound, ignore_index
        self.register_buffer("running_scores", torch.zeros(2))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        only_first: Float[Tensor, "batch classes"],
        only_second: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch classes"]:
        """The logits, whose gradients are scaled by what this batch shows.

        Args:
            logits: [B, C] of both modalities, f(x, y).
            only_first: [B, C] f(x, 0), with its gradient: `one_modality_at_a_time`.
            only_second: [B, C] f(0, y).
            target: [B] class indices.

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
        if not self.training:
            return logits
        both, apart = full_precision(logits), full_precision(only_first) - full_precision(only_second)
        # A class that is masked, by -inf, has nothing to share.
        masked = torch.isneginf(both)
        apart = apart.masked_fill(masked, 0.0)
        contributions = (both + apart) / 2, (both - apart) / 2
        for coefficient, share in zip(self.coefficients(*contributions, target), contributions, strict=True):
            # Nothing is added but gradient.
            both = both + (coefficient - 1) * (share - share.detach()).masked_fill(masked, 0.0)
        return both.to(logits.dtype)

    @torch.no_grad()
    def coefficients(
        self,
        first: Float[Tensor, "batch classes"],
        second: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"],
    ) -> Float[Tensor, "2"]:
        """The coefficients of two contributions, whose scores then count in R.

        Args:
            first: [B, C] φ_1.
            second: [B, C] φ_2.
            target: [B] class indices.

        Returns:
            [2]; both 1 where no sample has a target, and where a score is not a number, which R leaves out.
        """
        one, other = self._score(first, target), self._score(second, target)
        totals = total_of_all(torch.stack([one.total, other.total, one.samples]))
        scores = totals[:2] / totals[2].clamp(min=1)
        known = (totals[2] > 0) & scores.isfinite().all()
        running = self.running_scores.to(scores)
        ahead = (running.flip(0) - running).exp() - (scores.flip(0) - scores).exp()
        coefficients = torch.where(known, (self.alpha * ahead.clamp(max=self.bound)).exp(), 1.0)
        self.updates += known
        moved = running + (scores - running) / self.updates.clamp(min=1)
        self.running_scores.copy_(torch.where(known, moved, running))
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
        with buffers_in_full_precision(self):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """The settings."""
        return f"alpha={self.alpha}, bound={self.bound}, ignore_index={self.ignore_index}"


class _Score(NamedTuple):
    total: Float[Tensor, ""]
    samples: Float[Tensor, ""]


def one_modality_at_a_time(network: nn.Module, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """``f(x, 0)`` and ``f(0, y)``: a network of two inputs, in evaluation mode, with zeros for one of them.

    Call it after the network has seen both: a batch norm then changes nothing that the gradient needs.

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
