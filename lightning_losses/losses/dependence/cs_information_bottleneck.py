"""Cauchy-Schwarz information bottleneck: predictions spread as targets are, features that tell little of inputs."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.distances import squared_distances
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.regression import regression_values
from lightning_losses.numerics.settings import Positive, Weight
from lightning_losses.numerics.vectors import refuse_powers

Denominator = Literal["sum_of_squares", "square_of_sum"]


class CSInformationBottleneck(Loss):
    """Cauchy-Schwarz information bottleneck: predictions spread as targets are, features that tell little of inputs.

    ``D(ŷ, y | x) + β Q(x, z) / √(Q(x, x) Q(z, z))``, logarithms to base 2, with the kernel ``exp(-|a - b|² / 2σ²)``:

    - ``D = log S(y, y) + log S(ŷ, ŷ) - 2 log S(ŷ, y)``, ``S(a, b) = Σ_j (Σ_i K_ji L_ji) / (Σ_i K_ji²)``, K being the
      kernel of the inputs and L that of a and b: a divergence of the conditional distributions, 0 where ŷ = y.
    - ``Q(x, z) = log tr(K_x K_z) + log(ΣK_x ΣK_z) - 2 log(1ᵀ K_x K_z 1)``, sizes cancelling: the dependence of the
      features on the inputs, at least 0, and 0 where all features are equal.

    Inputs, targets and features are to be standardised, since one σ serves all. Batch-coupled; its matrices have a row
    and a column for each sample.

    Args:
        beta: β, at least 0; the authors take 1e-4 to 1.
        sigma: σ, above 0.
        denominator_form: "sum_of_squares" is ``Σ_i K_ji²``, the authors' code; "square_of_sum" is ``(Σ_i K_ji)²``, as
            the conditional density's estimate has it.

    Shapes:
        inputs: [B, ...]; features: [B, D]; mean, regression_target: [B] or [B, ...], both the same.

    Returns:
        A scalar. D may be a little below 0, since it weighs rows.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range; on a CPU and under `debug`, numbers whose
            squares are too large.

    Source:
        Yu, Yu, Løkse, Jenssen, Príncipe, 2024, "Cauchy-Schwarz Divergence Information Bottleneck for Regression",
        arXiv:2404.17951, and its code SJYuCNEL/Cauchy-Schwarz-Information-Bottleneck, which has no number where all
        features are equal.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0.0, 1.0, 0.0])
        >>> CSInformationBottleneck()(x, torch.zeros(3, 2), y, y).item()
        0.0
        >>> round(CSInformationBottleneck(beta=1.0)(x, x, y, y).item(), 4)
        1.0
    """

    status = "confirmed"
    evidence = "SJYuCNEL/Cauchy-Schwarz-Information-Bottleneck"

    batch_coupled = True

    beta: Weight = 1e-2
    sigma: Positive = 1.0
    denominator_form: Denominator = "sum_of_squares"

    def forward(
        self,
        inputs: Float[Tensor, "batch ..."],
        features: Float[Tensor, "batch dim"],
        mean: Float[Tensor, "batch *values"],
        regression_target: Float[Tensor, "batch *values"],
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; see the class."""
        target, mean = regression_values(self._identifier, regression_target, mean=mean)
        for name, tensor in (("inputs", inputs), ("features", features)):
            check_floating(self._identifier, name, tensor)
            if tensor.ndim < 2 or len(tensor) != len(target) or (name == "features" and tensor.ndim != 2):
                raise ValueError(
                    f"{self._identifier}: {name} of shape {list(tensor.shape)} came for {len(target)} targets; give "
                    f"{'[B, ...]' if name == 'inputs' else '[B, D]'}, of the same samples."
                )
        if len(target) == 0:
            return mean.sum() * 0.0 + full_precision(features).sum() * 0.0
        x, z = (full_precision(tensor).to(mean.dtype).flatten(1) for tensor in (inputs.detach(), features))
        factor = max(1.0, self.sigma**-2)
        refuse_powers(self._identifier, 2, factor, inputs=x, features=z, mean=mean, regression_target=target)
        with torch.autocast(mean.device.type, enabled=False):
            of_inputs, of_features = (log_kernel(points, points, self.sigma) for points in (x, z))
            numbers = (mean.reshape(len(mean), -1), target.reshape(len(target), -1))
            divergence = conditional_divergence(of_inputs, *numbers, self.sigma, self.denominator_form)
            return divergence + self.beta * dependence(of_inputs, of_features)


def log_kernel(
    a: Float[Tensor, "rows dim"], b: Float[Tensor, "columns dim"], sigma: float
) -> Float[Tensor, "rows columns"]:
    """``-|a_i - b_j|² / 2σ²``; exactly 0 on the diagonal of points with themselves.

    Example:
        >>> log_kernel(torch.tensor([[0.0]]), torch.tensor([[0.0], [2.0]]), 1.0)
        tensor([[-0., -2.]])
    """
    # Distances stay, and round less near the middle.
    middle = b.detach().mean(dim=0)
    squared = squared_distances(a - middle, b - middle)
    if a is b:
        squared = squared.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), 0.0)
    return -squared / (2 * sigma**2)


def conditional_divergence(
    of_inputs: Float[Tensor, "batch batch"],
    predicted: Float[Tensor, "batch values"],
    target: Float[Tensor, "batch values"],
    sigma: float,
    form: Denominator,
) -> Float[Tensor, ""]:
    """D of the class, in bits, from the logarithms of the inputs' kernel."""
    squares = form == "sum_of_squares"
    below = (2 * of_inputs).logsumexp(dim=1) if squares else 2 * of_inputs.logsumexp(dim=1)

    def log_similarity(a: Tensor, b: Tensor) -> Tensor:
        return ((of_inputs + log_kernel(a, b, sigma)).logsumexp(dim=1) - below).logsumexp(dim=0)

    own = log_similarity(target, target) + log_similarity(predicted, predicted)
    return (own - 2 * log_similarity(predicted, target)) / math.log(2)


def dependence(of_x: Float[Tensor, "batch batch"], of_z: Float[Tensor, "batch batch"]) -> Float[Tensor, ""]:
    """``Q(x, z) / √(Q(x, x) Q(z, z))``, from both kernels' logarithms; 0, without gradient, where one is constant.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> round(dependence(log_kernel(x, x, 1.0), log_kernel(2 * x, 2 * x, 2.0)).item(), 4)
        1.0
    """
    scale = quadratic_information(of_x, of_x) * quadratic_information(of_z, of_z)
    # Of equal features rounding alone is left, whose root has no slope.
    least = (1e3 * torch.finfo(scale.dtype).eps) ** 2
    nothing = scale <= least
    value = quadratic_information(of_x, of_z) / scale.masked_fill(nothing, 1.0).sqrt()
    return value.masked_fill(nothing, 0.0)


def quadratic_information(of_x: Float[Tensor, "batch batch"], of_z: Float[Tensor, "batch batch"]) -> Float[Tensor, ""]:
    """Q of the class, in bits: the Cauchy-Schwarz quadratic mutual information."""
    rows_x, rows_z = of_x.logsumexp(dim=1), of_z.logsumexp(dim=1)
    together = (of_x + of_z).flatten().logsumexp(dim=0)
    apart = rows_x.logsumexp(dim=0) + rows_z.logsumexp(dim=0)
    return (together + apart - 2 * (rows_x + rows_z).logsumexp(dim=0)) / math.log(2)
