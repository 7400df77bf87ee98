"""A two-layer ReLU network whose second layer consists of fixed signs."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_number


class TwoLayerReLU(nn.Module):
    """``f(x) = Σ_j a_j relu(w_j·x)`` with ``a_j = ±1/√m`` fixed, as two logits ``(-f/2, f/2)``.

    Cross-entropy of these logits is the logistic loss ``log(1 + exp(-y f))`` with y = ±1.

    Args:
        num_features: the width of the inputs.
        num_classes: 2.
        hidden: m, even; half of the signs are +1.
        init_scale: the standard deviation of the initial weights, above 0.

    Raises:
        ValueError: another number of classes; an odd m; a scale of 0 or less.

    Example:
        >>> TwoLayerReLU(6, hidden=4)(torch.ones(3, 6)).shape
        torch.Size([3, 2])
    """

    signs: Tensor

    def __init__(self, num_features: int, num_classes: int = 2, hidden: int = 256, init_scale: float = 1e-4) -> None:
        super().__init__()
        check_number("two_layer_relu", "num_features", num_features, least=1)
        check_number("two_layer_relu", "num_classes", num_classes, least=2, most=2)
        check_number("two_layer_relu", "hidden", hidden, least=2)
        check_number("two_layer_relu", "init_scale", init_scale, above=0)
        if hidden % 2:
            raise ValueError(
                f"two_layer_relu: hidden={hidden} came; give an even number, for equally many signs of each kind."
            )
        self.weight = nn.Parameter(torch.randn(hidden, num_features) * init_scale)
        self.register_buffer("signs", torch.tensor([1.0, -1.0]).repeat(hidden // 2) / hidden**0.5)

    def score(self, inputs: Float[Tensor, "batch features"]) -> Float[Tensor, " batch"]:
        """f, positive for class 1."""
        return (inputs @ self.weight.T).relu() @ self.signs

    def forward(self, inputs: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """The two logits."""
        half = self.score(inputs) / 2
        return torch.stack([-half, half], dim=-1)
