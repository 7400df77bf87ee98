"""Few-shot classes by clustering: prototypes of the labelled, and neighbours that shall agree."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_losses.diagnostics.checks import check_labels, check_points
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.settings import Count, Declared, NonNegative

# Steps of the bound and rounds of prototypes, at most, and the relative changes of the energy that end them.
_STEPS, _ROUNDS = 600, 100
_STEP_CHANGE, _ROUND_CHANGE = 1e-7, 1e-5


class Transduced(NamedTuple):
    """What was found of the unlabelled samples.

    Attributes:
        label: [q] the likeliest class of each.
        probabilities: [q, K] of the classes that the labelled samples have, ascending.
        energies: [rounds] the energy after each round of prototypes.
    """

    label: Int[Tensor, " queries"]
    probabilities: Float[Tensor, "queries classes"]
    energies: Float[Tensor, " rounds"]


class LaplacianKMeans(Declared):
    """Labelled and unlabelled samples in clusters around prototypes, in which neighbours are drawn together.

    ``E(Y) = Σ_ik y_ik a_ik + Σ_ik y_ik log y_ik - λ/2 Σ_ij w_ij y_iᵀ y_j`` over assignments y_i that sum to 1, a_ik
    being the squared distance of x_i from prototype c_k, and w_ij whether j is among the nearest of i.
    ``Y ← softmax(-a + λ W Y)`` until E changes no more, then prototypes anew, in turn; labelled samples keep their
    class. Each step lowers a bound of E where W is symmetric and positive semidefinite; else E mostly falls, and steps
    are limited. λ = 0 is soft k-means from the labelled samples' means.

    Args:
        laplacian: λ, at least 0; the authors choose it among 0.05 and 1 on validation episodes.
        neighbours: how many nearest others of each sample count, at least 1.
        prototypes: "mean", the mean by assignments; "mode", the sample of the largest assignment, with
            ``a_ik = -exp(-|x_i - c_k|² / 2σ²)`` and σ² the mean squared distance of neighbours.
        clamp: whether labelled samples keep their class in "every" step, or at the "start" alone.
        symmetric: whether samples are neighbours of those that they are neighbours to.
        normalise: whether features are centred by their mean and scaled to length 1.

    Shapes:
        support: [s, D]; target: [s] class indices; queries: [q, D].

    Returns:
        See `Transduced`; in float64.

    Raises:
        ValueError: shapes that do not fit; features that are not finite, or whose squares are not; classes below 0;
            fewer than two classes.

    Source:
        Ziko, Dolz, Granger, Ben Ayed, 2020, "Laplacian Regularized Few-Shot Learning", arXiv:2006.15486, and the
        prototypes of their earlier code imtiazziko/SLK-few-shot (Ziko, Granger, Ben Ayed, 2018, "Scalable Laplacian
        K-modes", arXiv:1810.13044). That code clamps nothing after the start, does not make W symmetric, centres by the
        mean of the classes of training, and watches an energy with λ in place of λ/2, which its steps need not lower;
        its mean-shift modes are not here.

    Example:
        >>> support, target = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([3, 7])
        >>> queries = torch.tensor([[0.9, 0.1], [0.8, 0.3], [-0.7, 0.2]])
        >>> LaplacianKMeans()(support, target, queries).label
        tensor([3, 3, 7])
    """

    name = "laplacian_kmeans_transductive"

    laplacian: NonNegative = 0.5
    neighbours: Count = 2
    prototypes: Literal["mean", "mode"] = "mean"
    clamp: Literal["every", "start"] = "every"
    symmetric: bool = True
    normalise: bool = True

    @torch.no_grad()
    def __call__(
        self, support: Float[Tensor, "support d"], target: Int[Tensor, " support"], queries: Float[Tensor, "queries d"]
    ) -> Transduced:
        """Classify the queries, together."""
        for name, points in (("support", support), ("queries", queries)):
            check_points(self.name, name, points)
        check_labels(self.name, support, target)
        if bool((target < 0).any()):
            raise ValueError(f"{self.name}: a target of {int(target.min())} came; leave out samples without a class.")
        classes, place = torch.unique(target, return_inverse=True)
        x = torch.cat([support, queries]).double() if queries.shape[1] == support.shape[1] else None
        if x is None or len(classes) < 2 or not bool(x.isfinite().all()):
            raise ValueError(
                f"{self.name}: support of shape {list(support.shape)} with {len(classes)} classes and queries of shape "
                f"{list(queries.shape)} came; give finite features of the same width, and two classes at least."
            )
        # Distances are the same around any point, and most precise around their own mean.
        x = x - x.mean(dim=0)
        x = unit_rows(x) if self.normalise else x
        affinity = neighbour_affinity(x, min(self.neighbours, len(x) - 1), symmetric=self.symmetric)
        known = one_hot(place, len(classes)).double()
        prototypes = known.T @ x[: len(known)] / known.sum(dim=0).unsqueeze(1)
        spread = (affinity * torch.cdist(x, x).square()).sum() / affinity.sum()
        energies: list[Tensor] = []
        while True:
            unary = torch.cdist(x, prototypes).square()
            if self.prototypes == "mode":
                unary = -torch.exp(-unary / (2 * spread).clamp(min=1e-12))
            assigned, within = bound_updates(unary, affinity, self.laplacian, known, every=self.clamp == "every")
            energies.append(within[-1])
            if not bool(energies[-1].isfinite()):
                raise ValueError(
                    f"{self.name}: features up to {float(x.abs().max()):.3g} with laplacian={self.laplacian} overflow; "
                    "scale the features, or lower laplacian."
                )
            ended = len(energies) > 1 and (energies[-1] - energies[-2]).abs() <= _ROUND_CHANGE * energies[-2].abs()
            if ended or len(energies) == _ROUNDS:
                break
            members = assigned.sum(dim=0)
            moved = x[assigned.argmax(dim=0)] if self.prototypes == "mode" else (assigned / members).T @ x
            # A class that has lost all its members keeps its prototype.
            prototypes = torch.where((members > 0).unsqueeze(1), moved, prototypes)
        found = assigned[len(known) :]
        return Transduced(classes[found.argmax(dim=1)], found, torch.stack(energies))


def neighbour_affinity(
    x: Float[Tensor, "samples d"], neighbours: int, *, symmetric: bool = True
) -> Float[Tensor, "samples samples"]:
    """Which samples are the nearest others of each: 1 or 0, and half for one way alone where it is made symmetric.

    Example:
        >>> neighbour_affinity(torch.tensor([[0.0], [1.0], [3.0]]), 1).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.5, 0.0]]
    """
    distances = torch.cdist(x, x).fill_diagonal_(torch.inf)
    nearest = distances.topk(neighbours, largest=False).indices
    affinity = torch.zeros_like(distances).scatter_(1, nearest, 1.0)
    return (affinity + affinity.T) / 2 if symmetric else affinity


def laplacian_energy(
    assigned: Float[Tensor, "samples classes"],
    unary: Float[Tensor, "samples classes"],
    affinity: Float[Tensor, "samples samples"],
    laplacian: float,
) -> Float[Tensor, ""]:
    """``Σ y a + Σ y log y - λ/2 Σ_ij w_ij y_iᵀ y_j``.

    Example:
        >>> laplacian_energy(torch.eye(2), torch.ones(2, 2), torch.ones(2, 2), 1.0).item()
        1.0
    """
    entropy = torch.special.xlogy(assigned, assigned).sum()
    return (assigned * unary).sum() + entropy - laplacian / 2 * (assigned * (affinity @ assigned)).sum()


def bound_updates(
    unary: Float[Tensor, "samples classes"],
    affinity: Float[Tensor, "samples samples"],
    laplacian: float,
    known: Float[Tensor, "labelled classes"],
    *,
    every: bool = True,
) -> tuple[Float[Tensor, "samples classes"], list[Tensor]]:
    """Assignments that minimise bounds of the energy, step by step, all samples at once; and the energies.

    The bound has the tangent of ``-λ/2 yᵀ W y`` in its place, which lies above it where W is symmetric and positive
    semidefinite; ``softmax(-a + λ W Y)`` minimises it.

    Args:
        unary: [n, K] the costs of classes.
        affinity: [n, n].
        laplacian: λ.
        known: [s, K] the classes of the first samples.
        every: whether these keep them in every step.
    """

    def clamped(assigned: Tensor) -> Tensor:
        return torch.cat([known, assigned[len(known) :]])

    assigned = clamped(torch.softmax(-unary, dim=1))
    energies = [laplacian_energy(assigned, unary, affinity, laplacian)]
    for _ in range(_STEPS):
        assigned = torch.softmax(laplacian * affinity @ assigned - unary, dim=1)
        assigned = clamped(assigned) if every else assigned
        energies.append(laplacian_energy(assigned, unary, affinity, laplacian))
        if (energies[-1] - energies[-2]).abs() <= _STEP_CHANGE * energies[-2].abs():
            break
    return assigned, energies
