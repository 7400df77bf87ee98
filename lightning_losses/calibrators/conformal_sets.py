"""Conformal prediction sets: classes that together hold the true one as often as was asked for."""

import warnings
from abc import abstractmethod
from typing import ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.calibrators.conformal_quantile import (
    check_alpha,
    conformal_p_values,
    least_samples,
    quantile_of_sorted,
)
from lightning_losses.calibrators.fitted import FittedModule
from lightning_losses.calibrators.rows_to_fit import rows_to_fit
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.rows import pick


class ConformalSets(FittedModule):
    """Base of the conformal classifiers: `fit(logits, target)` once, then `forward(logits)` gives a set for each row.

    A score says how badly a label fits a prediction. A set holds every label whose score is at most a quantile of the
    scores that the true labels had in the fit. If the rows of the fit and a new row are exchangeable, the set holds the
    new row's class with a probability of at least ``1 - alpha``, whatever the network is. This probability is over new
    rows and over fits; it need not hold for each class or each kind of input. Given one fit of n rows, the coverage has
    the distribution Beta(k, n + 1 - k), k being `conformal_rank`. The rows must not have been used for training, for
    early stopping or for a temperature; a network that was trained further needs a new fit.

    The fit keeps its scores, so that another alpha needs no new fit. A class that is masked by -inf is in no set, and a
    row with NaN has every other class in its set.

    A subclass computes the score of every label in `scores`.

    Args:
        alpha: the share of rows whose class may be missed, in (0, 1).
        classwise: whether each class has a quantile of its own (Mondrian), so that the coverage holds for each class. A
            class with fewer than ``1 / alpha - 1`` rows is in every set; a warning names it.
        ignore_index: rows with this target are left out of the fit.

    Attributes:
        calibration: [1, n], or [C, rows of the largest class], the scores of the fit in rising order, filled with inf.
        randomised: whether scores are randomised, by numbers in [0, 1).
    """

    learned: ClassVar[tuple[str, ...]] = ("calibration",)
    takes_binary: ClassVar[bool] = False
    views: ClassVar[tuple[str, ...]] = ()
    calibration: Tensor
    randomised: bool = False
    seed: int = 0

    def __init__(self, alpha: float = 0.1, classwise: bool = False, ignore_index: int = -100) -> None:
        super().__init__()
        check_alpha(type(self).__name__, alpha)
        self.alpha = alpha
        self.classwise = classwise
        self.ignore_index = ignore_index

    @abstractmethod
    def scores(
        self, probabilities: Float[Tensor, "*rows classes"], uniforms: Float[Tensor, "*rows draws"] | None = None
    ) -> Float[Tensor, "*rows classes"]:
        """How badly each label fits.

        Args:
            probabilities: [..., C].
            uniforms: [..., 1] or [..., C] numbers in [0, 1) by which scores are randomised; None for none.
        """

    @torch.no_grad()
    def fit(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Int[Tensor, "*rows"],
        uniforms: Float[Tensor, "rows draws"] | None = None,
    ) -> Self:
        """Keep the scores of the true labels.

        Args:
            logits: [..., C] scores of data that nothing else was chosen by.
            target: [...] int64 class indices; rows with `ignore_index` are left out.
            uniforms: for randomised scores, a number in [0, 1) for each row that is kept; None: drawn by `seed`.

        Returns:
            Itself.

        Raises:
            ValueError: shapes or dtypes that do not fit, only one class, NaN or inf logits, targets outside the
                classes, no rows.

        Warns:
            UserWarning: too few rows for a finite quantile: sets then hold all classes, or the classes in question.
        """
        with torch.inference_mode(False):
            rows, labels = rows_to_fit(type(self).__name__, logits, target, self.ignore_index)
            if self.randomised and uniforms is None:
                uniforms = torch.rand(len(rows), 1, generator=torch.Generator().manual_seed(self.seed)).to(rows)
            true = pick(self.scores(_probabilities(rows), uniforms), labels).to(rows.dtype)
            groups = labels if self.classwise else torch.zeros_like(labels)
            counts = torch.bincount(groups, minlength=rows.shape[-1] if self.classwise else 1)
            order = true.argsort()
            order = order[groups[order].argsort(stable=True)]
            place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[groups[order]]
            filled = true.new_full((len(counts), int(counts.max())), torch.inf)
            filled[groups[order], place] = true[order]
            self.keep({"calibration": filled}, rows)
        self._tell_few(counts)
        return self

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        alpha: float | None = None,
        uniforms: Float[Tensor, "*rows draws"] | None = None,
    ) -> Bool[Tensor, "*rows classes"]:
        """The set of each row, [..., C]: True where a class is in it.

        Args:
            logits: [..., C].
            alpha: in place of that of the constructor.
            uniforms: for randomised scores, [..., 1] or [..., C] numbers in [0, 1); None: one a row, drawn by torch.
        """
        scores = self._scores_of(logits, uniforms)
        # Not `scores <= threshold`, by which NaN would be in no set.
        return ~(scores > self.threshold(alpha)) & (logits != -torch.inf)

    def threshold(self, alpha: float | None = None) -> Float[Tensor, " groups"]:
        """The largest score within a set: [1], or [C] if classwise; inf where there were too few rows."""
        self.check_fitted()
        if alpha is not None:
            check_alpha(type(self).__name__, alpha)
        return quantile_of_sorted(self.calibration, self.alpha if alpha is None else alpha)

    def p_values(
        self, logits: Float[Tensor, "*rows classes"], uniforms: Float[Tensor, "*rows draws"] | None = None
    ) -> Float[Tensor, "*rows classes"]:
        """How usual each label's score is among those of the fit; the sets hold those above alpha.

        It is 0 for a class that is masked by -inf, and NaN in a row with NaN.
        """
        scores = self._scores_of(logits, uniforms)
        kept = [group[torch.isfinite(group)] for group in self.calibration]
        each = [
            conformal_p_values(group, score) if len(group) else torch.where(score.isnan(), score, 1.0)
            for group, score in zip(kept, scores.unbind(dim=-1) if self.classwise else [scores], strict=True)
        ]
        p_values = torch.stack(each, dim=-1) if self.classwise else each[0]
        return p_values.masked_fill(logits == -torch.inf, 0.0)

    @property
    def samples(self) -> int:
        """How many rows the fit had."""
        return int(torch.isfinite(self.calibration).sum())

    def uniforms_of(self, rows: int) -> Float[Tensor, "rows 1"] | None:
        """Numbers for the rows of an evaluation, the same in every process and other than those of the fit.

        None if scores are not randomised.
        """
        if not self.randomised:
            return None
        return torch.rand(rows, 1, generator=torch.Generator().manual_seed(self.seed + 1))

    def original(self, logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        """The logits themselves, since no views of a sample are used."""
        return logits

    def _scores_of(self, logits: Tensor, uniforms: Tensor | None) -> Tensor:
        name = type(self).__name__
        self.check_fitted()
        check_floating(name, "logits", logits)
        classes = len(self.calibration)
        if logits.ndim == 0 or (self.classwise and logits.shape[-1] != classes):
            wanted = f"it was fitted on {classes} classes; give [..., {classes}]" if self.classwise else "give [..., C]"
            raise ValueError(f"{name}: logits of shape {list(logits.shape)} came; {wanted}.")
        wide = full_precision(logits)
        if self.randomised and uniforms is None:
            uniforms = torch.rand((*wide.shape[:-1], 1), device=wide.device, dtype=wide.dtype)
        probabilities = _probabilities(wide)
        # Rounded as the scores of the fit are: a threshold is one of these.
        scores = self.scores(probabilities, uniforms).to(self.calibration.dtype)
        return scores.masked_fill(torch.isnan(probabilities).any(dim=-1, keepdim=True), torch.nan)

    def _tell_few(self, counts: Int[Tensor, " groups"]) -> None:
        least = least_samples(self.alpha)
        few = (counts < least).nonzero().flatten().tolist()
        if not few:
            return
        if self.classwise:
            named = ", ".join(map(str, few[:10])) + (" and others" if len(few) > 10 else "")
            told = f"each class needs at least {least} rows; fewer came of {named}, which will be in every set"
        else:
            told = f"at least {least} rows are needed and {int(counts[0])} came; every set will hold all classes"
        # Past the fit and the frame of its decorator.
        warnings.warn(f"{type(self).__name__}: for alpha={self.alpha} {told}.", stacklevel=4)


def _probabilities(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """In float64, where the device has it: near 1 float32 has ties."""
    return torch.softmax(logits if logits.device.type == "mps" else logits.double(), dim=-1)
