"""A layer that turns gradients around: what follows it learns, what precedes it unlearns."""

from jaxtyping import Float
from torch import Tensor, nn


def reverse_gradient(inputs: Float[Tensor, "*shape"], strength: float | Tensor = 1.0) -> Float[Tensor, "*shape"]:
    """The inputs themselves; a gradient that passes back is multiplied by ``-strength``, and so are higher derivatives.

    Args:
        inputs: any tensor.
        strength: how much of the gradient is turned around; 0 stops it.

    Source:
        Ganin and Lempitsky, 2014, "Unsupervised Domain Adaptation by Backpropagation", arXiv:1409.7495.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> value = (3 * reverse_gradient(x, strength=0.5)).sum()
        >>> value.item(), torch.autograd.grad(value, x)[0]
        (6.0, tensor([-1.5000, -1.5000]))
    """
    constant = inputs.detach()
    # The difference is 0 to the bit, so that the value is exact; torch.func takes it as it is.
    return constant - strength * (inputs - constant)


class GradientReversal(nn.Module):
    """`reverse_gradient` as a layer.

    Args:
        strength: how much of the gradient is turned around.

    Example:
        >>> import torch
        >>> GradientReversal()(torch.ones(2))
        tensor([1., 1.])
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, inputs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The inputs."""
        return reverse_gradient(inputs, self.strength)

    def extra_repr(self) -> str:
        """The strength."""
        return f"strength={self.strength}"
