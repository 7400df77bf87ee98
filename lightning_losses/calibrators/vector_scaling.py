"""Vector scaling: each logit gets its own scale and offset."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.calibrators.base import Calibrator
from lightning_losses.calibrators.convex import evenly_spaced, minimize, softmax_residual, warn_of_absent
from lightning_losses.numerics.checks import check_number

_CHUNK = 1 << 20


class VectorScaling(Calibrator):
    """Vector scaling: the calibrated logits are ``w * logits + b``, class by class.

    ``min mean_n CE(w * logits_n + b, target_n) + μ mean_c b_c²``, a convex problem, solved to its optimum in float64.
    It may change the predicted class.

    Args:
        intercept_penalty: μ, at least 0.
        ignore_index: samples with this target are ignored.

    Attributes:
        scale: [C] the fitted w, empty before `fit`.
        offset: [C] the fitted b.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Raises:
        ValueError: a negative penalty; input that `fit` can't use; use before `fit`.

    Warns:
        UserWarning: no optimum was reached, for example where the classes are separable; a class without rows.

    Source:
        Guo, Pleiss, Sun, Weinberger, 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, without a
        penalty, which is the default here.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> calibrator = VectorScaling(0.01).fit(logits, torch.tensor([0, 1, 1, 0]))
        >>> torch.softmax(calibrator(logits[:1]), dim=-1)
        tensor([[0.5000, 0.5000]])
    """

    learned: ClassVar[tuple[str, ...]] = ("scale", "offset")
    scale: Tensor
    offset: Tensor

    def __init__(self, intercept_penalty: float = 0.0, ignore_index: int = -100) -> None:
        super().__init__(ignore_index)
        check_number("VectorScaling", "intercept_penalty", intercept_penalty, least=0, most=1e9)
        self.intercept_penalty = intercept_penalty

    @property
    def _classes(self) -> int:
        return len(self.scale)

    def _fit(self, logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"]) -> dict[str, Tensor]:
        warn_of_absent(type(self).__name__, target, logits.shape[-1])
        sample = evenly_spaced(logits, target)
        start = None if sample is None else self._solve(*sample)
        scale, offset = self._solve(logits, target, start)
        return {"scale": scale, "offset": offset}

    def _solve(self, logits: Tensor, target: Tensor, start: Tensor | None = None) -> Float[Tensor, "two classes"]:
        # In terms of standardised logits, w z + b = u (z - m) / s + v: both parameters then act alike.
        mean = logits.mean(dim=0, dtype=torch.float64)
        deviation = logits.double().std(dim=0, correction=0)
        # A logit that is constant but for rounding has no unit of its own.
        deviation = deviation.masked_fill(deviation <= 1e-9 * mean.abs(), 1.0)
        rows = max(_CHUNK // logits.shape[-1], 1)

        def plain(scaled: Tensor) -> Tensor:
            scale = scaled[0] / deviation
            return torch.stack([scale, scaled[1] - scale * mean])

        def objective(scaled: Tensor) -> tuple[Tensor, Tensor]:
            scale, offset = plain(scaled)
            value = torch.zeros((), dtype=torch.float64, device=logits.device)
            gradient = torch.zeros_like(scaled)
            for chunk, labels in zip(torch.split(logits, rows), torch.split(target, rows), strict=True):
                features = chunk.double()
                loss, residual = softmax_residual(features * scale + offset, labels)
                value += loss
                gradient[0] += (residual * features).sum(dim=0)
                gradient[1] += residual.sum(dim=0)
            gradient /= len(logits)
            value = value / len(logits) + self.intercept_penalty * offset.square().mean()
            gradient[1] += 2 * self.intercept_penalty * offset / len(offset)
            return value, torch.stack([(gradient[0] - gradient[1] * mean) / deviation, gradient[1]])

        scaled = torch.stack([torch.ones_like(mean), torch.zeros_like(mean)])
        if start is not None:
            scaled = torch.stack([start[0] * deviation, start[1] + start[0] * mean])
        return plain(minimize(type(self).__name__, objective, scaled))

    def _calibrate(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (self._widened(logits) * self.scale + self.offset).to(logits.dtype)
