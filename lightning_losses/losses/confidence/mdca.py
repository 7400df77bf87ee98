"""Multi-class difference between confidence and accuracy (MDCA) of a batch."""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.confidence import predictions


def mdca_loss(
    logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."], *, ignore_index: int = -100
) -> Float[Tensor, ""]:
    """Multi-class difference between confidence and accuracy; see `MDCA`."""
    rows = predictions("mdca", logits, target, ignore_index)
    difference = rows.log_p.exp() - F.one_hot(rows.target, rows.log_p.shape[-1])
    return ((difference * rows.kept.unsqueeze(-1)).sum(dim=0) / rows.number).abs().mean()


class MDCA(Loss):
    """Multi-class difference between confidence and accuracy: how far mean probabilities are from class frequencies.

    ``(1 / C) sum_c |mean_n p_nc - mean_n 1[target_n = c]|``, to be added to cross-entropy or focal loss. Batch-coupled.
    Classes that the batch lacks count too.

    Args:
        ignore_index: samples with this target count for nothing.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities.

    Source:
        Hebbalaguppe et al., 2022, "A Stitch in Time Saves Nine: A Train-Time Regularizing Loss for Improved Neural
        Network Calibration", arXiv:2203.13834.

    Example:
        >>> import torch
        >>> MDCA()(torch.zeros(2, 2), torch.tensor([0, 0])).item()
        0.5
    """

    batch_coupled: ClassVar[bool] = True
    status = "confirmed"
    evidence = "mdca-loss/MDCA-Calibration"

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        return mdca_loss(logits, target, ignore_index=self.ignore_index)
