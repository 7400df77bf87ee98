"""SAR: sharpness-aware minimisation of the entropy of reliable predictions, with a way back."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.settings import NonNegative, Share
from lightning_losses.optim.perturbation import norm_of, perturbed, scaled_direction
from lightning_losses.test_time.adaptation import Adaptation, TestTimeMethod, row_entropy


class SAR(TestTimeMethod):
    """SAR: sharpness-aware minimisation of the entropy of reliable predictions, with a way back.

    Samples with ``H < E0`` are reliable. The weights move by ``ρ g / |g|``, g the gradient of the reliable samples'
    mean entropy; there the gradient of the mean entropy of those that are still reliable is taken, by which the
    optimizer steps from the weights as they were. Once the moving average of this second mean falls below
    `reset_below`, everything goes back to the snapshot: so certain a network has collapsed. Name the last blocks in
    `exclude`, as the authors do.

    Args:
        entropy_margin: E0 as a share of log C, in [0, 1].
        rho: ρ, the length of the first move, at least 0.
        reset_below: in nats, at least 0, where 0 never resets. The authors' 0.2 is for 1000 classes; with few classes
            a good network is that certain.
        decay: of the moving average, in [0, 1].
        lr, optimizer, include, exclude: see `TestTimeMethod`; SGD with momentum 0.9 if `optimizer` is None.

    Source:
        Niu, Wu, Zhang, Wen, Chen, Zhao, Tan, 2023, "Towards Stable Test-Time Adaptation in Dynamic Wild World",
        arXiv:2302.12400, and its code, mr-eggplant/SAR. Where no sample stays reliable, it steps by a gradient of 0,
        and this not at all; after a reset it keeps the moving average, by which the next batch resets again, and here
        the average begins anew.

    Example:
        >>> from lightning_losses.test_time import Adaptation
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
        >>> with Adaptation(network, SAR(entropy_margin=0.9)):
        ...     network(torch.randn(8, 2)).shape
        torch.Size([8, 3])
    """

    name = "sar"

    entropy_margin: Share = 0.4
    rho: NonNegative = 0.05
    reset_below: NonNegative = 0.2
    decay: Share = 0.9

    def make_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """SGD with momentum, unless there is another."""
        if self.optimizer is None:
            return torch.optim.SGD(parameters, lr=self.lr, momentum=0.9)
        return super().make_optimizer(parameters)

    def adapt(self, run: Adaptation, inputs: Any) -> Float[Tensor, "*rows classes"]:
        """Take a step on a batch, and predict."""
        logits = run.logits()
        entropy, margin = row_entropy(logits), self.entropy_margin * math.log(logits.shape[-1])
        reliable = entropy.detach() < margin
        first, _ = run.gradients(entropy, reliable)
        if first is None:
            return logits
        direction = dict(zip(run.adapted, first, strict=True))
        with perturbed(run.adapted, scaled_direction(direction, self.rho / (norm_of(direction) + 1e-12))):
            run.changed()
            moved = row_entropy(run.logits())
            second, mean = run.gradients(moved, reliable & (moved.detach() < margin))
        run.changed()
        if second is None:
            return logits
        run.apply(second)
        average = self.decay * run.state["average"] + (1 - self.decay) * mean if "average" in run.state else mean
        run.state["average"] = torch.as_tensor(average)
        if average < self.reset_below:
            run.reset()
        return logits
