"""ODIN: the tempered confidence after a step that makes the network more confident."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.settings import NonNegative, Temperature
from lightning_losses.out_of_distribution.base import OutOfDistributionScore, log_confidence, log_odds_of_others
from lightning_losses.out_of_distribution.measuring import Outputs, input_gradients, outputs_of, signed_step


class ODIN(OutOfDistributionScore):
    """The largest probability at a high temperature, of an input that was moved towards its own predicted class.

    ``log max_c softmax(z(x') / T)_c`` with ``x' = x - ε sign(∇_x CE(z(x) / T, ŷ))``, ŷ being the predicted class of x.
    The step raises the confidence in inputs like the training data more than that in others. A sign of 0 counts as 1.

    Args:
        temperature: T, above 0.
        epsilon: ε, at least 0, in units of the network's inputs; the paper's are of pixels from 0 to 1, which are
            divided by their deviation before they reach the network.

    Shapes:
        inputs: [B, ...] floating point; the network's logits: [B, C]; returns [B] float64, at most 0.

    Raises:
        ValueError: inputs that are no floating-point tensor.

    Source:
        Liang, Li, Srikant, 2018, "Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks",
        arXiv:1706.02690, and its code facebookresearch/odin.

    Example:
        >>> import torch
        >>> ODIN(temperature=10.0, epsilon=0.1)(nn.Identity(), torch.tensor([[3.0, 0.0], [1.0, 1.0]])).exp()
        tensor([0.5793, 0.5050], dtype=torch.float64)
    """

    name = "odin"

    temperature: Temperature = 1000.0
    epsilon: NonNegative = 0.0014

    def score(self, network: nn.Module, inputs: Any, outputs: Outputs) -> Float[Tensor, " batch"]:
        """The confidence after the step."""
        moved = self.perturbed(network, inputs)
        return log_confidence(outputs_of(network, moved, who=self.name).logits, self.temperature)

    def perturbed(self, network: nn.Module, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The inputs after the step."""

        def losses(leaf: Tensor) -> Sequence[Tensor]:
            # The gradient has the cross-entropy's sign, and doesn't vanish where the probability rounds to 1.
            logits = outputs_of(network, leaf, who=self.name).logits
            return [self.temperature * log_odds_of_others(logits, self.temperature)]

        (gradient,) = input_gradients(inputs, losses, self.name)
        return signed_step(inputs, gradient, self.epsilon)
