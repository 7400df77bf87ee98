"""TENT: minimises the entropy of the predictions of each batch."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from lightning_losses.test_time.adaptation import Adaptation, TestTimeMethod, row_entropy


class Tent(TestTimeMethod):
    """TENT: minimises the entropy of the predictions of each batch, by the affine parameters of normalisation layers.

    ``mean_i -sum_c p_ic log p_ic``. Over a long stream it can collapse: one class for everything has no entropy either.

    Args:
        lr: the learning rate; the authors take 0.001 with Adam for CIFAR and 0.00025 with SGD for ImageNet.
        optimizer, include, exclude: see `TestTimeMethod`.

    Source:
        Wang, Shelhamer, Liu, Olshausen, Darrell, 2020, "Tent: Fully Test-Time Adaptation by Entropy Minimization",
        arXiv:2006.10726, and its code, DequanWang/tent, whose networks are in training mode, with dropout; here they
        are in evaluation mode.

    Example:
        >>> import torch
        >>> from lightning_losses.test_time import Adaptation
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        >>> with Adaptation(network, Tent()):
        ...     network(torch.randn(8, 2)).shape
        torch.Size([8, 3])
    """

    name = "tent"

    def adapt(self, run: Adaptation, inputs: Any) -> Float[Tensor, "*rows classes"]:
        """Take a step on a batch, and predict."""
        logits = run.logits()
        run.step(row_entropy(logits))
        return logits
