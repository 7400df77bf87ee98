"""Conditional mutual information of a teacher: how much more than the class its predictions tell of the sample."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_count
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import class_indices, classification_rows


def class_centroids(
    sums: Float[Tensor, "classes classes"],
    counts: Shaped[Tensor, " classes"],
    previous: Float[Tensor, "classes classes"],
) -> Float[Tensor, "classes classes"]:
    """Each class's mean prediction from sums and counts; the previous one for a class without samples."""
    mean = sums / counts.clamp(min=1).unsqueeze(-1)
    return torch.where((counts > 0).unsqueeze(-1), mean, previous)


def class_sums(
    logits: Float[Tensor, "n classes"], target: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "classes classes"], Float[Tensor, " classes"]]:
    """The sum of the predictions of each class's samples, and their number."""
    probabilities = log_probabilities(logits).exp()
    classes = logits.shape[-1]
    sums = probabilities.new_zeros(classes, classes).index_add(0, target, probabilities)
    counts = probabilities.new_zeros(classes).index_add(0, target, torch.ones_like(probabilities[:, 0]))
    return sums, counts


def mcmi_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    centroids: Float[Tensor, "classes classes"],
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """The negative conditional mutual information, given each class's mean prediction; see `MCMI`."""
    check_reduction("mcmi", reduction)
    rows = classification_rows("mcmi", logits, target, ignore_index)
    assert rows.target is not None
    if centroids.shape != (logits.shape[-1], logits.shape[-1]):
        raise ValueError(
            f"mcmi: centroids of shape {list(centroids.shape)} came with {logits.shape[-1]} classes; give one "
            "distribution over the classes for each class."
        )
    # The code's bound on the logarithm: a class that no sample of this one was ever given.
    log_centroid = centroids.detach()[class_indices(rows.target)].to(rows.logits.dtype).clamp_(min=1e-12).log_()
    return reduce(-kl_divergence(log_probabilities(rows.logits), log_centroid), reduction, rows.kept)


class MCMI(Loss):
    """Conditional mutual information of a teacher: how much more than the class its predictions tell of the sample.

    ``-KL(p || Q_y)`` with p the prediction and Q_y the mean prediction of class y, a constant. Its negative mean is the
    information that predictions hold on the sample beyond its class. A trained teacher, trained on for some epochs with
    cross-entropy and this loss of a weight λ, tells a student more of how samples of one class differ.

    `centroids`, row y the distribution Q_y, is a buffer: uniform at first, and set by
    `lightning_losses.callbacks.companions.class_centroids.ClassCentroids` from all samples, after each epoch or once.

    Args:
        num_classes: C.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits: [..., C]; target: [...], or [..., C] probabilities, whose largest class is the target.

    Returns:
        A scalar, or [...] without reduction; at most 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; another number of classes than the centroids'.

    Source:
        Ye, Hamidi, Tan, Yang, 2024, "Bayes Conditional Distribution Estimation for Knowledge Distillation Based on
        Conditional Mutual Information", arXiv:2401.08732, and its code iclr2024mcmi/ICLRMCMI: λ from 0.1 to 0.25, 20
        epochs at half the learning rate. The code takes the centroids once, before; the paper in turn.

    Example:
        >>> loss = MCMI(num_classes=2)
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> round(loss(logits, target).item(), 4)  # entropy of p less log 2
        -0.3278
    """

    status = "confirmed"
    evidence = "iclr2024mcmi/ICLRMCMI"

    centroids: Tensor

    def __init__(self, num_classes: int, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_count("mcmi", "num_classes", num_classes)
        check_reduction("mcmi", reduction)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.register_buffer("centroids", torch.full((num_classes, num_classes), 1 / num_classes))

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return mcmi_loss(logits, target, self.centroids, ignore_index=self.ignore_index, reduction=self.reduction)
