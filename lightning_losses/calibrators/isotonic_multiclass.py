"""Joint isotonic regression: one non-decreasing function for the probabilities of all classes."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.calibrators.base import Calibrator
from lightning_losses.calibrators.pool_adjacent_violators import interpolate, pool_adjacent_violators


class IsotonicMulticlass(Calibrator):
    """Joint isotonic regression: one non-decreasing function for the probabilities of all classes, then normalised.

    The function of smallest squared error over all N C pairs of a probability and ``1[target = class]``. One function
    needs less data than one per class, and keeps the order of the classes. The predicted class does not change; if
    other classes are mapped to the same value, it stays ahead by one rounding step. Adding 1e-9 times the probability
    itself separates classes that are mapped to 0, and keeps their logits finite.

    Args:
        ignore_index: samples with this target are ignored.

    Attributes:
        knot_scores: [K] the function's corners, empty before `fit`.
        knot_values: [K] the function's values there.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Raises:
        ValueError: input that `fit` can't use; use before `fit`.

    Source:
        Zhang, Kailkhura, Han, 2020, "Mix-n-Match: Ensemble and Compositional Methods for Uncertainty Calibration in
        Deep Learning", arXiv:2003.07329 (IRM).

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> calibrator = IsotonicMulticlass().fit(logits, torch.tensor([0, 0]))
        >>> calibrator(logits).argmax(dim=-1)
        tensor([0, 1])
    """

    learned: ClassVar[tuple[str, ...]] = ("knot_scores", "knot_values")
    keeps_argmax: ClassVar[bool] = True
    knot_scores: Tensor
    knot_values: Tensor

    def _fit(self, logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"]) -> dict[str, Tensor]:
        outcome = F.one_hot(target, logits.shape[-1]).bool()
        knots = pool_adjacent_violators(torch.softmax(logits, dim=-1).reshape(-1), outcome.reshape(-1))
        return dict(zip(self.learned, knots, strict=True))

    def _calibrate(self, logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        # In the precision of the fit, because the function may be very steep between two corners.
        log_p = torch.log_softmax(logits.to(self._precision), dim=-1)
        probabilities = torch.softmax(logits.to(self._precision), dim=-1)
        values = interpolate(
            probabilities.reshape(1, -1), self.knot_scores.unsqueeze(0), self.knot_values.unsqueeze(0)
        ).reshape(logits.shape)
        # In log-space, where a probability that underflows still is above 0.
        calibrated = torch.logaddexp(values.log(), log_p + math.log(1e-9)).to(logits.dtype)
        # The function may map the two most probable classes to one value: keep the first ahead by one rounding step.
        best = calibrated.amax(dim=-1, keepdim=True)
        return calibrated.scatter(
            -1, logits.argmax(dim=-1, keepdim=True), torch.nextafter(best, torch.full_like(best, torch.inf))
        )
