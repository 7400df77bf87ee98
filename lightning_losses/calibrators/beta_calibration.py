"""Beta calibration: a three-parameter family that contains the identity, sigmoids and inverse sigmoids."""

import itertools
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.calibrators.convex import is_constant, logistic_regression
from lightning_losses.calibrators.one_vs_rest import LogOddsOneVsRest

_LEAST = math.log(1e-12)


class BetaCalibration(LogOddsOneVsRest):
    """Beta calibration: ``logit q = a log s - b log(1 - s) + c`` of the probability s, with a and b at least 0.

    a, b and c maximise the likelihood, a convex problem, solved to its optimum in float64: the map is monotone, and
    ``a = b = 1, c = 0`` leaves probabilities as they are; s and 1 - s count as at least 1e-12. With more than two
    classes each probability is mapped against the rest, then normalised; the predicted class may change. A score that
    is constant, up to rounding, gets a = b = 0 and the frequency of the class.

    Args:
        ignore_index: samples with this target are ignored.

    Attributes:
        slopes: [C, 2], [1, 2] for binary logits, the fitted a and b, empty before `fit`.
        offset: [C] or [1], the fitted c.

    Shapes:
        logits: [..., C] or, binary, [N]; target: [...] class indices.

    Raises:
        ValueError: input that `fit` can't use; use before `fit`.

    Warns:
        UserWarning: a score separates the classes.

    Source:
        Kull, Silva Filho, Flach, 2017, "Beta calibration: a well-founded and easily implemented improvement on
        logistic calibration for binary classifiers", AISTATS. Where a or b would be negative the authors drop it and
        fit again; this takes the best of the fits with any of them dropped, which is the constrained optimum.

    Example:
        >>> scores = torch.tensor([-1.0, -1.0, 1.0, 1.0, 2.0, 2.0])
        >>> calibrator = BetaCalibration().fit(scores, torch.tensor([0, 1, 0, 1, 1, 0]))
        >>> torch.sigmoid(calibrator(torch.tensor([-1.0, 1.0, 2.0])))
        tensor([0.5000, 0.5000, 0.5000])
    """

    learned: ClassVar[tuple[str, ...]] = ("slopes", "offset")
    slopes: Tensor
    offset: Tensor

    def _fit_class(self, score: Float[Tensor, " rows"], outcome: Bool[Tensor, " rows"]) -> dict[str, Tensor]:
        aim = outcome.double()
        # Scores that differ only by rounding get no slope; near 1 that means the rounding of 1.
        parts = [torch.zeros_like(aim) if is_constant(part, 1.0) else part.double() for part in _log_odds_parts(score)]
        features = torch.stack([*parts, torch.ones_like(aim)], dim=-1)
        best, best_value = None, math.inf
        # In order of dropped slopes: a fit that drops more can't beat the first feasible one.
        for dropped in itertools.chain.from_iterable(itertools.combinations((0, 1), size) for size in range(3)):
            taken = [i for i in range(3) if i not in dropped]
            coefficients = features.new_zeros(3)
            coefficients[taken] = logistic_regression(type(self).__name__, features[:, taken], aim)
            if bool((coefficients[:2] < 0).any()):
                continue
            scores = features @ coefficients
            value = float((F.softplus(scores) - aim * scores).mean())
            if value < best_value:
                best, best_value = coefficients, value
            if not dropped:
                break
        assert best is not None
        return {"slopes": best[:2], "offset": best[2]}

    def _scores(self, logits: Float[Tensor, "*shape"], single: bool) -> Float[Tensor, "*shape"]:
        return logits if single else _log_odds(logits)

    def _map(self, scores: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        log_score, log_rest = _log_odds_parts(scores)
        return self.slopes[:, 0] * log_score + self.slopes[:, 1] * log_rest + self.offset


def _log_odds(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """``log p_c - log(1 - p_c)`` of the softmax, exact even for probabilities near 1."""
    top = logits.argmax(dim=-1, keepdim=True)
    rest = logits.scatter(-1, top, -torch.inf).logsumexp(dim=-1, keepdim=True)
    # All other probabilities are at most 1/2, so their complement is exact.
    log_p = torch.log_softmax(logits, dim=-1).clamp(max=-math.log(2))
    return (log_p - torch.log1p(-log_p.exp())).scatter(-1, top, logits.gather(-1, top) - rest)


def _log_odds_parts(score: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """``log s`` and ``-log(1 - s)`` from the log-odds of s, with both probabilities at least 1e-12."""
    return F.logsigmoid(score).clamp(min=_LEAST), F.softplus(score).clamp(max=-_LEAST)
