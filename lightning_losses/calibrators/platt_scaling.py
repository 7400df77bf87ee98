"""Platt scaling: a sigmoid of a scaled and shifted score."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.calibrators.convex import is_constant, logistic_regression
from lightning_losses.calibrators.one_vs_rest import LogOddsOneVsRest


class PlattScaling(LogOddsOneVsRest):
    """Platt scaling: the calibrated probability is ``sigmoid(a score + b)``.

    a and b maximise the likelihood, a convex problem, solved to its optimum in float64. With more than two classes
    each logit is scaled against the rest, and the probabilities are normalised; the predicted class may change. A score
    that is constant, up to rounding, gets a = 0 and the frequency of the class.

    Args:
        target_smoothing: fit to ``(N₊ + 1) / (N₊ + 2)`` and ``1 / (N₋ + 2)`` instead of 1 and 0, so that the optimum
            exists even if the score separates the classes.
        ignore_index: samples with this target are ignored.

    Attributes:
        slope: [C], [1] for binary logits, the fitted a, empty before `fit`.
        offset: [C] or [1], the fitted b.

    Shapes:
        logits: [..., C] or, binary, [N]; target: [...] class indices.

    Raises:
        ValueError: input that `fit` can't use; use before `fit`.

    Warns:
        UserWarning: a score separates the classes, and the targets were not smoothed.

    Source:
        Platt, 1999, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood
        Methods"; one against the rest: Zadrozny, Elkan, 2002.

    Example:
        >>> scores = torch.tensor([-1.0, -1.0, 1.0, 1.0])
        >>> calibrator = PlattScaling(target_smoothing=False).fit(scores, torch.tensor([0, 1, 1, 1]))
        >>> round(torch.sigmoid(calibrator(torch.tensor(-1.0))).item(), 3)
        0.5
    """

    learned: ClassVar[tuple[str, ...]] = ("slope", "offset")
    slope: Tensor
    offset: Tensor

    def __init__(self, target_smoothing: bool = True, ignore_index: int = -100) -> None:
        super().__init__(ignore_index)
        self.target_smoothing = target_smoothing

    def _scores(self, logits: Float[Tensor, "*shape"], single: bool) -> Float[Tensor, "*shape"]:
        # With several classes, +inf makes the softmax NaN.
        return logits if single else logits.masked_fill(torch.isposinf(logits), torch.nan)

    def _fit_class(self, score: Float[Tensor, " rows"], outcome: Bool[Tensor, " rows"]) -> dict[str, Tensor]:
        aim = outcome.double()
        if self.target_smoothing:
            positive, negative = aim.sum(), (1 - aim).sum()
            aim = torch.where(outcome, (positive + 1) / (positive + 2), 1 / (negative + 2))
        constant = is_constant(score)
        score = score.double()
        mean = score.mean()
        # Scores that differ only by rounding get no slope.
        centred = torch.stack([torch.zeros_like(score) if constant else score - mean, torch.ones_like(score)], dim=-1)
        slope, offset = logistic_regression(type(self).__name__, centred, aim)
        return {"slope": slope, "offset": offset - slope * mean}

    def _map(self, scores: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        # Without a slope a score of inf must not matter; 0 * inf would be NaN.
        return torch.where((self.slope == 0) & scores.isinf(), 0.0, scores * self.slope) + self.offset
