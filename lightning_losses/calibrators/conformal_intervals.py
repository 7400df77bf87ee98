"""Conformal intervals of regressions: from a prediction, with or without its spread, and from two quantiles."""

import warnings
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.calibrators.conformal_quantile import check_alpha, least_samples, quantile_of_sorted
from lightning_losses.calibrators.fitted import FittedModule
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.regression import check_real, refuse_where, regression_values


class ConformalIntervals(FittedModule):
    """Base of the conformal regressions: a fit keeps how far predictions were off, and intervals are as wide.

    If the numbers of the fit and a new one are exchangeable, the interval holds the new one with a probability of at
    least ``1 - alpha``, whatever the network is; see `ConformalSets` for what this says and asks for.

    Args:
        alpha: the share of numbers that may be missed, in (0, 1).

    Attributes:
        calibration: [n] the scores of the fit in rising order.
    """

    learned: ClassVar[tuple[str, ...]] = ("calibration",)
    calibration: Tensor

    def __init__(self, alpha: float = 0.1) -> None:
        super().__init__()
        check_alpha(type(self).__name__, alpha)
        self.alpha = alpha

    def threshold(self, alpha: float | None = None) -> Float[Tensor, ""]:
        """The score that bounds the intervals; inf where there were too few numbers."""
        self.check_fitted("..., regression_target")
        if alpha is not None:
            check_alpha(type(self).__name__, alpha)
        return quantile_of_sorted(self.calibration, self.alpha if alpha is None else alpha)

    def _keep_scores(self, scores: Float[Tensor, "*values"]) -> None:
        name, flat = type(self).__name__, scores.flatten()
        if len(flat) == 0:
            raise ValueError(f"{name}: no numbers came to fit on; give at least one.")
        if not bool(torch.isfinite(flat).all()):
            raise ValueError(f"{name}: predictions or targets hold NaN or inf; fit on finite numbers.")
        self.keep({"calibration": flat.sort().values}, flat)
        least = least_samples(self.alpha)
        if len(flat) < least:
            warnings.warn(
                f"{name}: for alpha={self.alpha} {len(flat)} numbers came, and at least {least} are needed, so that "
                "every interval is infinite.",
                # Past the fit and the frame of its decorator.
                stacklevel=4,
            )


class SplitConformal(ConformalIntervals):
    """Split conformal regression: a prediction, give or take what held-out predictions were off.

    The score is ``|y - f|``, and the interval ``[f - q, f + q]``, equally wide everywhere. If `normalised`, the score
    is ``|y - f| / σ`` and the width ``2 q σ``, with a spread σ of each prediction, such as a standard deviation.

    Args:
        alpha: as `ConformalIntervals` takes it.
        normalised: whether `fit` and `forward` are given spreads.

    Attributes:
        calibration: the scores of the fit; empty before it.

    Shapes:
        prediction, regression_target and, if normalised, spread: [...]; the intervals: [..., 2].

    Raises:
        ValueError: shapes or dtypes that do not fit; NaN or inf in the fit; a spread that is missing, or is given
            although the intervals are not normalised, or is 0 or less.

    Warns:
        UserWarning: too few numbers for finite intervals.

    Source:
        Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, 2018, "Distribution-Free Predictive Inference for Regression",
        arXiv:1604.04173.

    Example:
        >>> target = torch.arange(19.0)
        >>> intervals = SplitConformal(alpha=0.1).fit(torch.zeros(19), target)
        >>> intervals(torch.tensor([100.0])).tolist()
        [[83.0, 117.0]]
    """

    def __init__(self, alpha: float = 0.1, normalised: bool = False) -> None:
        super().__init__(alpha)
        self.normalised = normalised

    @torch.no_grad()
    def fit(
        self,
        prediction: Float[Tensor, "*values"],
        regression_target: Float[Tensor, "*values"],
        spread: Float[Tensor, "*values"] | None = None,
    ) -> Self:
        """Keep how far predictions are off."""
        with torch.inference_mode(False):
            target, prediction = regression_values(type(self).__name__, regression_target, prediction=prediction)
            self._keep_scores((target - prediction).abs() / self._unit(prediction, spread))
        return self

    def forward(
        self,
        prediction: Float[Tensor, "*values"],
        spread: Float[Tensor, "*values"] | None = None,
        alpha: float | None = None,
    ) -> Float[Tensor, "*values 2"]:
        """The lower and the upper end of each interval."""
        check_real(type(self).__name__, "prediction", prediction)
        prediction = full_precision(prediction)
        width = self.threshold(alpha) * self._unit(prediction, spread)
        return torch.stack([prediction - width, prediction + width], dim=-1)

    def _unit(self, prediction: Tensor, spread: Tensor | None) -> Tensor:
        """What scores are counted in."""
        name = type(self).__name__
        if (spread is not None) != self.normalised:
            told = "a spread came" if spread is not None else "no spread came"
            raise ValueError(f"{name}: {told} with normalised={self.normalised}; give spreads if it is True alone.")
        if spread is None:
            return torch.ones_like(prediction)
        check_real(name, "spread", spread)
        _check_same_shape(name, prediction=prediction, spread=spread)
        refuse_where(spread <= 0, name, "spread", spread, "above 0")
        return full_precision(spread)


class CQR(ConformalIntervals):
    """Conformalised quantile regression: two predicted quantiles, moved until they cover.

    The score is ``max(low - y, y - high)``, below 0 within the quantiles, and the interval ``[low - q, high + q]``.
    Where the predicted band is too wide, q is below 0 and shrinks it; a band that is narrower than ``2 |q|`` collapses
    to its middle. Quantiles that cross are exchanged, in the fit as well. Train them by `Pinball` at alpha / 2 and
    1 - alpha / 2.

    Args:
        alpha: as `ConformalIntervals` takes it.

    Attributes:
        calibration: the scores of the fit; empty before it.

    Shapes:
        low, high, regression_target: [...]; the intervals: [..., 2].

    Raises:
        ValueError: shapes or dtypes that do not fit; NaN or inf in the fit.

    Warns:
        UserWarning: too few numbers for finite intervals.

    Source:
        Romano, Patterson, Candès, 2019, "Conformalized Quantile Regression", arXiv:1905.03222.

    Example:
        >>> low, high, target = torch.zeros(9), torch.ones(9), torch.linspace(-0.4, 0.4, 9)
        >>> CQR(alpha=0.1).fit(low, high, target)(low[:1], high[:1]).tolist()
        [[-0.4000000059604645, 1.399999976158142]]
    """

    @torch.no_grad()
    def fit(
        self,
        low: Float[Tensor, "*values"],
        high: Float[Tensor, "*values"],
        regression_target: Float[Tensor, "*values"],
    ) -> Self:
        """Keep how far targets lie outside of the quantiles."""
        with torch.inference_mode(False):
            target, *ends = regression_values(type(self).__name__, regression_target, low=low, high=high)
            low, high = _in_order(*ends)
            self._keep_scores(torch.maximum(low - target, target - high))
        return self

    def forward(
        self, low: Float[Tensor, "*values"], high: Float[Tensor, "*values"], alpha: float | None = None
    ) -> Float[Tensor, "*values 2"]:
        """The lower and the upper end of each interval."""
        name, width = type(self).__name__, self.threshold(alpha)
        check_real(name, "low", low)
        check_real(name, "high", high)
        _check_same_shape(name, low=low, high=high)
        low, high = _in_order(full_precision(low), full_precision(high))
        middle = (low + high) / 2
        return torch.stack([torch.minimum(low - width, middle), torch.maximum(high + width, middle)], dim=-1)


def _in_order(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return torch.minimum(low, high), torch.maximum(low, high)


def _check_same_shape(name: str, **given: Tensor) -> None:
    (one, first), (other, second) = given.items()
    if first.shape != second.shape:
        raise ValueError(
            f"{name}: {other} of shape {list(second.shape)} came with {one} of shape {list(first.shape)}; give both "
            "the same shape."
        )
