"""The terms that RePRI minimises: of labelled pixels, of the mean prediction, and of the predictions' entropy."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.probabilities import full_precision

_IGNORED = 255
# What the authors add within logarithms and to divisors.
_TINY = 1e-10


class RePRITerms(NamedTuple):
    """The terms of each task, and what they are made of.

    Attributes:
        cross_entropy: of the labelled pixels.
        divergence: KL of the query's mean prediction from the proportions.
        entropy: of the query's predictions, mean over pixels.
        marginal: the query's mean prediction, of background and foreground.
    """

    cross_entropy: Float[Tensor, " tasks"]
    divergence: Float[Tensor, " tasks"]
    entropy: Float[Tensor, " tasks"]
    marginal: Float[Tensor, "tasks 2"]


@dataclass
class Prototype:
    """A linear classifier of pixels, one for each task: ``sigmoid(s cos(w, f) - b)`` is the share of foreground."""

    weight: Float[Tensor, "tasks d"]
    bias: Float[Tensor, " tasks"]
    temperature: float = 20.0

    def cosines(self, features: Float[Tensor, "tasks images d h w"]) -> Float[Tensor, "tasks images h w"]:
        """``s cos(w, f)``."""
        # Half precision has no number as small as what is added here.
        weight, features = full_precision(self.weight), full_precision(features)
        with torch.autocast(features.device.type, enabled=False):
            product = torch.einsum("td,tidhw->tihw", weight, features)
        return self.temperature * product / (weight.norm(dim=1)[:, None, None, None] * features.norm(dim=2) + _TINY)

    def probabilities(self, features: Float[Tensor, "tasks images d h w"]) -> Float[Tensor, "tasks images 2 h w"]:
        """Of background and foreground."""
        foreground = torch.sigmoid(self.cosines(features) - self.bias[:, None, None, None])
        return torch.stack([1 - foreground, foreground], dim=2)


def repri_terms(
    prototype: Prototype,
    support: Float[Tensor, "tasks shots d h w"],
    mask: Int[Tensor, "tasks shots h w"],
    query: Float[Tensor, "tasks queries d h w"],
    valid: Float[Tensor, "tasks queries h w"],
    proportions: Float[Tensor, "tasks 2"],
) -> RePRITerms:
    """The terms that RePRI weighs and minimises, differentiable by the prototype.

    ``CE = -mean log p_y`` over the labelled pixels, ``KL = Σ_k p̂_k log(p̂_k / π_k)`` with p̂ the mean prediction of the
    query, and ``H = -mean Σ_k p_k log p_k`` over its pixels.

    Args:
        prototype: the classifier.
        support: features of the labelled images.
        mask: 1 for foreground, 0 for background, 255 for pixels that do not count.
        query: features of the images to segment.
        valid: 1 for their pixels that count.
        proportions: π, of background and foreground.

    Source:
        Boudiaf et al., 2021, "Few-Shot Segmentation Without Meta-Learning: A Good Transductive Inference Is All You
        Need?", arXiv:2012.06166, and its code mboudiaf/RePRI-for-Few-Shot-Segmentation.

    Example:
        >>> prototype = Prototype(torch.ones(1, 1), torch.zeros(1))
        >>> image = torch.tensor([[[[[1.0, -1.0]]]]])
        >>> mask, half = torch.tensor([[[[1, 0]]]]), torch.full((1, 2), 0.5)
        >>> terms = repri_terms(prototype, image, mask, image, torch.ones(1, 1, 1, 2), half)
        >>> [round(term.item(), 4) for term in terms[:3]]
        [0.0, 0.0, 0.0]
    """
    labelled, predicted = prototype.probabilities(support), prototype.probabilities(query)
    known = mask != _IGNORED
    chosen = torch.where(mask == 1, labelled[:, :, 1], labelled[:, :, 0])
    cross_entropy = mean_of_counted(-(chosen + _TINY).log(), known.to(chosen.dtype))
    entropy = mean_of_counted(-(predicted * (predicted + _TINY).log()).sum(dim=2), valid)
    marginal = torch.stack([mean_of_counted(predicted[:, :, part], valid) for part in (0, 1)], dim=1)
    divergence = (marginal * (marginal / (proportions + _TINY)).log()).sum(dim=1)
    return RePRITerms(cross_entropy, divergence, entropy, marginal)


def mean_of_counted(values: Float[Tensor, "tasks images h w"], counted: Float[Tensor, "tasks images h w"]) -> Tensor:
    """Of each task, over the pixels that count."""
    return (values * counted).sum(dim=(1, 2, 3)) / counted.sum(dim=(1, 2, 3))
