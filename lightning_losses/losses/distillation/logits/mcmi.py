"""Conditional mutual information of a teacher: the information of its predictions on a sample beyond its class."""

from dataclasses import field

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import class_indices
from lightning_losses.numerics.settings import Count


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


class MCMI(ClassificationLoss):
    """Conditional mutual information of a teacher: the information of its predictions on a sample beyond its class.

    ``-KL(p || Q_y)`` with p the prediction and Q_y the mean prediction of class y, a constant. Its negative mean is
    that information. Train a trained teacher for some more epochs with cross-entropy and this loss, of weight λ: it
    then teaches a student more of how samples of one class differ.

    `centroids`, with Q_y in row y, is a buffer: uniform at first, and set by
    `lightning_losses.callbacks.companions.class_centroids.ClassCentroids` from all samples, after each epoch or once.

    Args:
        num_classes: C, at least 1.

    Shapes:
        logits: [..., C]; target: [...], or [..., C] probabilities, whose largest class is the target.

    Returns:
        A scalar, or [...] without reduction; at most 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a number of classes that is not the centroids'.

    Source:
        Ye, Hamidi, Tan, Yang, 2024, "Bayes Conditional Distribution Estimation for Knowledge Distillation Based on
        Conditional Mutual Information", arXiv:2401.08732, and its code iclr2024mcmi/ICLRMCMI: λ from 0.1 to 0.25, 20
        epochs at half the learning rate. The code computes the centroids once, before training; the paper alternates.

    Example:
        >>> loss = MCMI(num_classes=2)
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> round(loss(logits, target).item(), 4)  # entropy of p less log 2
        -0.3278
    """

    status = "confirmed"
    evidence = "iclr2024mcmi/ICLRMCMI"

    num_classes: Count
    centroids: Float[Tensor, "classes classes"] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        uniform = torch.full((self.num_classes, self.num_classes), 1 / self.num_classes)
        self.register_buffer("centroids", uniform)

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        classes = given.logits.shape[-1]
        if self.centroids.shape != (classes, classes):
            raise ValueError(
                f"{self._identifier}: centroids of shape {list(self.centroids.shape)} came with {classes} classes; "
                "give one distribution over the classes for each class."
            )
        centroid = self.centroids.detach()[class_indices(given.target)].to(given.logits.dtype)
        # The authors' bound on the logarithm of a class that has probability 0.
        return -kl_divergence(log_probabilities(given.logits), centroid.clamp(min=1e-12).log())
