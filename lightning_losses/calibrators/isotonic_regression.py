"""Isotonic regression: each class's probability through its own non-decreasing function."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.calibrators.one_vs_rest import OneVsRest
from lightning_losses.calibrators.pool_adjacent_violators import Knots, interpolate, pad_knots, pool_adjacent_violators


class IsotonicRegression(OneVsRest):
    """Isotonic regression: each class's probability through its own non-decreasing function.

    The function of smallest squared error to ``1[target = class]``, found by pooling adjacent violators: a step
    function, linear between the steps, constant outside the fitted scores. With more than two classes each is mapped
    against the rest, then normalised; if all classes get 0 the result is uniform. It may change the predicted class,
    and gives probabilities of 0 and 1 at the ends, whose logits are infinite.

    Args:
        ignore_index: samples with this target are ignored.

    Attributes:
        knot_scores: [C, K], [1, K] for binary logits, the functions' corners, empty before `fit`.
        knot_values: [C, K] or [1, K], the functions' values there.

    Shapes:
        logits: [..., C] or, binary, [N]; target: [...] class indices.

    Raises:
        ValueError: input that `fit` can't use; use before `fit`.

    Source:
        Zadrozny, Elkan, 2002, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates"; Barlow
        et al., 1972, "Statistical Inference under Order Restrictions". Zhang, Kailkhura, Han, 2020 (Mix-n-Match,
        IROvA) do not normalise: `class_probabilities` doesn't either.

    Example:
        >>> import torch
        >>> scores = torch.tensor([-2.0, -1.0, 1.0, 2.0])
        >>> calibrator = IsotonicRegression().fit(scores, torch.tensor([0, 1, 0, 1]))
        >>> torch.sigmoid(calibrator(scores))
        tensor([0.0000, 0.5000, 0.5000, 1.0000])
    """

    learned: ClassVar[tuple[str, ...]] = ("knot_scores", "knot_values")
    knot_scores: Tensor
    knot_values: Tensor

    def _fit_class(self, score: Float[Tensor, " rows"], outcome: Bool[Tensor, " rows"]) -> dict[str, Tensor]:
        return dict(zip(self.learned, pool_adjacent_violators(score, outcome), strict=True))

    def _stack(self, classes: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        knots = pad_knots([Knots(fitted["knot_scores"], fitted["knot_values"]) for fitted in classes])
        return dict(zip(self.learned, knots, strict=True))

    def _map(self, scores: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        rows = scores.reshape(-1, scores.shape[-1]).T.contiguous()
        values = interpolate(rows, self.knot_scores, self.knot_values)
        return values.T.reshape(scores.shape)
