"""Multi-class difference between confidence and accuracy (MDCA) of a batch."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import PredictionLoss, Predictions
from lightning_losses.numerics.rows import one_hot


class MDCA(PredictionLoss):
    """Multi-class difference between confidence and accuracy: how far mean probabilities are from class frequencies.

    ``(1 / C) sum_c |mean_n p_nc - mean_n 1[target_n = c]|``, to be added to cross-entropy or focal loss. Batch-coupled.
    Classes that aren't in the batch count too.

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

    status = "confirmed"
    evidence = "mdca-loss/MDCA-Calibration"

    def measure(self, given: Predictions) -> Float[Tensor, ""]:
        """The value of the batch."""
        difference = given.log_p.exp() - one_hot(given.target, given.log_p)
        return ((difference * given.kept.unsqueeze(-1)).sum(dim=0) / given.number).abs().mean()
