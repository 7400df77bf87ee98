"""Matrix scaling: an affine map of the logits, with off-diagonal and intercept regularisation."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.calibrators.base import Calibrator
from lightning_losses.calibrators.convex import affine_softmax, evenly_spaced, minimize, warn_of_absent
from lightning_losses.calibrators.temperature_scaling import optimal_inverse_temperature
from lightning_losses.numerics.checks import check_number


class MatrixScaling(Calibrator):
    """Matrix scaling: the calibrated logits are ``W logits + b``.

    ``min mean_n CE(W logits_n + b, target_n) + λ / (C (C - 1)) sum_{i≠j} W_ij² + μ / C sum_i b_i²``, a convex problem,
    solved to its optimum in float64. The penalty (ODIR) leaves the diagonal free: without it, C² parameters overfit
    soon. It may change the predicted class.

    Args:
        off_diagonal_penalty: λ, at least 0.
        intercept_penalty: μ, at least 0.
        ignore_index: samples with this target are ignored.

    Attributes:
        weight: [C, C] the fitted W, empty before `fit`.
        offset: [C] the fitted b.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Raises:
        ValueError: a negative penalty; input that `fit` can't use; use before `fit`.

    Warns:
        UserWarning: no optimum was reached, for example where the classes are separable; a class without rows.

    Source:
        Guo, Pleiss, Sun, Weinberger, 2017, arXiv:1706.04599; the penalty: Kull et al., 2019, "Beyond Temperature
        Scaling", arXiv:1910.12656.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> calibrator = MatrixScaling().fit(logits, torch.tensor([0, 1, 1, 0]))
        >>> torch.softmax(calibrator(logits[:1]), dim=-1)
        tensor([[0.5000, 0.5000]])
    """

    learned: ClassVar[tuple[str, ...]] = ("weight", "offset")
    weight: Tensor
    offset: Tensor

    def __init__(
        self, off_diagonal_penalty: float = 0.01, intercept_penalty: float = 0.01, ignore_index: int = -100
    ) -> None:
        super().__init__(ignore_index)
        check_number(type(self).__name__, "off_diagonal_penalty", off_diagonal_penalty, least=0, most=1e9)
        check_number(type(self).__name__, "intercept_penalty", intercept_penalty, least=0, most=1e9)
        self.off_diagonal_penalty = off_diagonal_penalty
        self.intercept_penalty = intercept_penalty

    def _features(self, logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        return unmasked(logits)

    @property
    def _classes(self) -> int:
        return len(self.weight)

    def _fit(self, logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"]) -> dict[str, Tensor]:
        features, classes = self._features(logits), logits.shape[-1]
        warn_of_absent(type(self).__name__, target, classes)
        coefficients = torch.eye(classes, classes + 1, dtype=torch.float64, device=logits.device)
        if (sample := evenly_spaced(features, target)) is not None:
            # Start from a temperature on some rows, then all rows in their own precision: few exact iterations remain.
            coefficients *= optimal_inverse_temperature(*sample, 0.05, 20.0)
            coefficients = self._solve(*sample, coefficients, precision=features.dtype)
            coefficients = self._solve(features, target, coefficients, precision=features.dtype)
        coefficients = self._solve(features, target, coefficients)
        return {"weight": coefficients[:, :-1], "offset": coefficients[:, -1]}

    def _solve(
        self, features: Tensor, target: Tensor, start: Tensor, precision: torch.dtype | None = None
    ) -> Float[Tensor, "classes extended"]:
        classes = len(start)
        off_diagonal = 1 - torch.eye(classes, classes + 1, dtype=torch.float64, device=start.device)
        penalty = off_diagonal * self.off_diagonal_penalty / max(classes * (classes - 1), 1)
        penalty[:, -1] = self.intercept_penalty / classes
        scaled = _Scaled(features, start, 2 * self.off_diagonal_penalty / max(classes * (classes - 1), 1))

        def objective(values: Tensor) -> tuple[Tensor, Tensor]:
            coefficients = scaled.plain(values)
            value, gradient = affine_softmax(features, target, coefficients, precision or torch.float64)
            value = value + (penalty * coefficients.square()).sum()
            return value, scaled.gradient(gradient + 2 * penalty * coefficients)

        return scaled.plain(minimize(type(self).__name__, objective, scaled.scaled(start), rough=precision is not None))

    def _calibrate(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        features = self._features(self._widened(logits))
        with torch.autocast(logits.device.type, enabled=False):
            return (features @ self.weight.T.to(features.dtype) + self.offset).to(logits.dtype)


def unmasked(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """Logits in which a class masked by -inf has the smallest finite logit, because the matrix needs finite numbers."""
    masked = logits == -torch.inf
    return torch.where(masked, logits.masked_fill(masked, torch.inf).amin(dim=-1, keepdim=True), logits)


class _Scaled:
    """Coordinates in which the objective has about the same curvature in every direction.

    Its Hessian is near ``K ⊗ M`` plus the penalty, with K the mean covariance of the one-hot class under the model's
    probabilities and M the second moment of ``[x, 1]``. Scaled by the square root of this in the eigenvectors of both,
    the problem needs few iterations.
    """

    def __init__(self, features: Float[Tensor, "rows classes"], coefficients: Tensor, penalty: float) -> None:
        size = features.shape[-1] + 1
        moment = torch.zeros(size, size, dtype=torch.float64, device=features.device)
        covariance = torch.zeros(size - 1, size - 1, dtype=torch.float64, device=features.device)
        for chunk in torch.split(features, 1 << 14):
            extended = torch.cat([chunk.double(), torch.ones_like(chunk[:, :1], dtype=torch.float64)], dim=1)
            probabilities = torch.softmax(extended @ coefficients.T, dim=-1)
            moment.addmm_(extended.T, extended)
            covariance += probabilities.sum(dim=0).diag().addmm(probabilities.T, probabilities, alpha=-1)
        class_values, self.class_vectors = torch.linalg.eigh(covariance / len(features))
        moment_values, self.moment_vectors = torch.linalg.eigh(moment / len(features))
        curvature = torch.outer(class_values.clamp(min=0), moment_values.clamp(min=0)) + penalty
        self.root = curvature.clamp(min=1e-6 * float(curvature.max())).sqrt()

    def scaled(self, plain: Tensor) -> Tensor:
        return (self.class_vectors.T @ plain @ self.moment_vectors) * self.root

    def plain(self, scaled: Tensor) -> Tensor:
        return self.class_vectors @ (scaled / self.root) @ self.moment_vectors.T

    def gradient(self, plain: Tensor) -> Tensor:
        return (self.class_vectors.T @ plain @ self.moment_vectors) / self.root
