"""A network with scaled output relative to its initialisation, for lazy or rich training."""

import copy

from torch import Tensor, nn

from lightning_losses.numerics.checks import check_number


class OutputScale(nn.Module):
    """Multiplies a network's output by a factor, after subtracting the network's output at initialisation.

    ``α (f(x) - f₀(x))``. A large α gives lazy training: the weights hardly move, and the network learns like its
    initial kernel. A small α gives rich training. Divide the learning rate by α² to keep the function's speed under a
    squared loss.

    The frozen f₀ consists of buffers: it is saved and moves with the network, and is in neither `parameters()` nor
    the gradients' averaging. It costs a second forward pass without gradients.

    Args:
        network: the network f.
        alpha: α, above 0.
        centred: whether to subtract f₀; without it and with α = 1 the output is that of f.

    Raises:
        ValueError: α of 0 or less.

    Source:
        Chizat, Oyallon, Bach, 2019, "On Lazy Training in Differentiable Programming", arXiv:1812.07956; for grokking:
        Kumar, Bordelon, Gershman, Pehlevan, 2023, "Grokking as the Transition from Lazy to Rich Training Dynamics",
        arXiv:2310.06110.

    Example:
        >>> import torch
        >>> OutputScale(nn.Linear(3, 2), alpha=4.0)(torch.ones(1, 3)).tolist()
        [[0.0, 0.0]]
    """

    def __init__(self, network: nn.Module, alpha: float = 1.0, centred: bool = True) -> None:
        super().__init__()
        check_number("output_scale", "alpha", alpha, above=0)
        self.network = network
        self.alpha = alpha
        self.start = _frozen(network) if centred else None

    def forward(self, inputs: Tensor) -> Tensor:
        """The scaled output."""
        output = self.network(inputs)
        if self.start is not None:
            output = output - self.start(inputs).detach()
        return self.alpha * output


def _frozen(network: nn.Module) -> nn.Module:
    """A copy whose parameters are buffers; random layers stay in the mode of the original."""
    frozen = copy.deepcopy(network)
    for module in frozen.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach().clone())
    return frozen
