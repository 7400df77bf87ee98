"""Hardness-aware prototype sampling: features of old classes are drawn again, of confusable ones more often."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_count, check_floating, check_number, check_temperature

_WHO = "hardness_aware_prototype_sampling"


class SampledFeatures(NamedTuple):
    """Features that were drawn, and the classes that they are drawn of."""

    features: Float[Tensor, "samples d"]
    target: Int[Tensor, " samples"]


@torch.no_grad()
def hardness_aware_prototype_sampling(
    prototypes: Float[Tensor, "classes d"],
    samples: int,
    radius: float,
    *,
    temperature: float = 0.1,
    generator: torch.Generator | None = None,
) -> SampledFeatures:
    """Features of old classes without their data: a class by its hardness, its prototype, and Gaussian noise.

    A class c is drawn with probability ``softmax(s / τ)_c`` by its `mean_similarity` s, and its feature is
    ``μ_c / |μ_c| + r ε`` with ε ~ N(0, I), which is not normalised again. Cross-entropy of the head on such features
    replays the old classes while new ones are learned.

    Args:
        prototypes: [K, d] a mean feature of each class.
        samples: how many to draw, at least 1.
        radius: r, at least 0; `prototype_radius` measures it.
        temperature: τ, above 0; large ones draw all classes alike.
        generator: of the random numbers; None takes torch's own.

    Raises:
        ValueError: shapes or numbers that do not fit.

    Source:
        Ma, Zhu, Zhong, Zhang, Liu, 2024, "Happy: A Debiased Learning Framework for Continual Generalized Category
        Discovery", arXiv:2410.06535.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> drawn = hardness_aware_prototype_sampling(torch.eye(3), 4, radius=0.1, generator=generator)
        >>> drawn.features.shape, bool((drawn.features.argmax(dim=1) == drawn.target).all())
        (torch.Size([4, 3]), True)
    """
    check_count(_WHO, "samples", samples)
    check_number(_WHO, "radius", radius, least=0)
    chances = hardness_probabilities(prototypes, temperature)
    target = torch.multinomial(chances, samples, replacement=True, generator=generator)
    noise = torch.randn(
        samples, prototypes.shape[1], dtype=prototypes.dtype, device=prototypes.device, generator=generator
    )
    return SampledFeatures(torch.nn.functional.normalize(prototypes, dim=1)[target] + radius * noise, target)


@torch.no_grad()
def hardness_probabilities(
    prototypes: Float[Tensor, "classes d"], temperature: float = 0.1
) -> Float[Tensor, " classes"]:
    """How often each class is drawn: ``softmax(s / τ)`` of `mean_similarity`.

    Raises:
        ValueError: prototypes that are not [K, d]; a temperature of 0 or less.

    Example:
        >>> hardness_probabilities(torch.eye(4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    check_temperature(_WHO, temperature)
    return (mean_similarity(prototypes) / temperature).softmax(dim=0)


@torch.no_grad()
def mean_similarity(prototypes: Float[Tensor, "classes d"]) -> Float[Tensor, " classes"]:
    """The mean cosine of each prototype to the others; 0 of one alone.

    Raises:
        ValueError: prototypes that are not [K, d].

    Example:
        >>> mean_similarity(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
        tensor([0.5000, 0.5000, 0.0000])
    """
    check_floating(_WHO, "prototypes", prototypes)
    if prototypes.ndim != 2 or 0 in prototypes.shape:
        raise ValueError(f"{_WHO}: prototypes of shape {list(prototypes.shape)} came; give [classes, d].")
    unit = torch.nn.functional.normalize(prototypes, dim=1)
    cosines = unit @ unit.T
    return cosines.fill_diagonal_(0.0).sum(dim=1) / max(len(unit) - 1, 1)


@torch.no_grad()
def prototype_radius(features: Float[Tensor, "samples d"], target: Int[Tensor, " samples"]) -> float:
    """How far features lie from their class's mean: ``sqrt(mean_c tr(Σ_c) / d)``, Σ_c the covariance within a class.

    Args:
        features: [n, d], normalised as prototypes are.
        target: [n] class indices; classes with one sample do not count, nor do samples of class -100.

    Raises:
        ValueError: no class with two samples; shapes that do not fit.

    Example:
        >>> round(prototype_radius(torch.tensor([[0.0], [2.0], [5.0], [7.0]]), torch.tensor([0, 0, 3, 3])), 4)
        1.4142
    """
    check_floating("prototype_radius", "features", features)
    if features.ndim != 2 or target.shape != features.shape[:1]:
        raise ValueError(
            f"prototype_radius: features of shape {list(features.shape)} came with a target of shape "
            f"{list(target.shape)}; give [samples, d] and a class index for each."
        )
    groups = [features[target == label].double() for label in sorted(set(target.tolist()) - {-100})]
    variances = [group.var(dim=0).mean() for group in groups if len(group) > 1]
    if not variances:
        raise ValueError("prototype_radius: no class has two samples; give more, so that a spread can be measured.")
    return float(torch.stack(variances).mean().sqrt())
