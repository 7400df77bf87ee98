"""A two-layer network with a nearly linear activation and a kernel in closed form."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_number


class PolynomialNetwork(nn.Module):
    """``f(x) = (α / N) Σ_i φ(w_i·x)`` with ``φ(h) = h + (ε / 2) h²`` and ``w_i ~ N(0, I)``.

    A large α gives lazy training: the outputs change a lot while the weights hardly turn.

    Args:
        num_features: D, the width of the inputs.
        num_classes: 1, the number of outputs.
        hidden: N, the number of hidden units.
        alpha: α, above 0.
        epsilon: ε, the quadratic part of the activation, at least 0.

    Raises:
        ValueError: numbers out of range.

    Source:
        Kumar, Bordelon, Gershman, Pehlevan, 2023, "Grokking as the Transition from Lazy to Rich Training Dynamics",
        arXiv:2310.06110.

    Example:
        >>> PolynomialNetwork(5, hidden=9)(torch.ones(2, 5)).shape
        torch.Size([2, 1])
    """

    def __init__(
        self, num_features: int, num_classes: int = 1, hidden: int = 500, alpha: float = 1.0, epsilon: float = 0.25
    ) -> None:
        super().__init__()
        check_number("polynomial_network", "num_features", num_features, least=1)
        check_number("polynomial_network", "num_classes", num_classes, least=1, most=1)
        check_number("polynomial_network", "hidden", hidden, least=1)
        check_number("polynomial_network", "alpha", alpha, above=0)
        check_number("polynomial_network", "epsilon", epsilon, least=0)
        self.weight = nn.Parameter(torch.randn(hidden, num_features))
        self.alpha = alpha
        self.epsilon = epsilon

    def forward(self, inputs: Float[Tensor, "batch features"]) -> Float[Tensor, "batch 1"]:
        """The output."""
        h = inputs @ self.weight.T
        return self.alpha * (h + self.epsilon / 2 * h.square()).mean(dim=-1, keepdim=True)

    def kernel(
        self, inputs: Float[Tensor, "batch features"], others: Float[Tensor, "others features"]
    ) -> Float[Tensor, "batch others"]:
        """The present neural tangent kernel: ``(α² / N²) Σ_i φ'(h_i) φ'(h'_i) x·x'``."""
        slopes = [1 + self.epsilon * (x @ self.weight.T) for x in (inputs, others)]
        return (self.alpha / len(self.weight)) ** 2 * (slopes[0] @ slopes[1].T) * (inputs @ others.T)

    def expected_error(self, direction: Float[Tensor, " features"]) -> dict[str, Float[Tensor, ""]]:
        """The parts of the mean squared error against ``(β·x)² / 2`` for ``x ~ N(0, I / D)``; their sum is the error.

        With ``A = β βᵀ - α ε M`` and ``M`` the mean of ``w wᵀ``: "variance" ``(tr A)² / 4D²``, "misalignment" ``|A|² /
        2D²``, and "linear" ``α² |w̄|² / D`` from the linear part of the activation.
        """
        dimension, hidden = self.weight.shape[1], self.weight.shape[0]
        moment = self.weight.T @ self.weight / hidden
        off = torch.outer(direction, direction) - self.alpha * self.epsilon * moment
        return {
            "variance": off.trace().square() / (4 * dimension**2),
            "misalignment": off.square().sum() / (2 * dimension**2),
            "linear": self.alpha**2 * self.weight.mean(dim=0).square().sum() / dimension,
        }
