"""Sparse activations: which latents of which samples are kept, where a batch has a budget of them.

On several processes the budget is that of the batch of all: each process tells the others its largest values, without
gradient, and keeps its own that are at least as large as the smallest that is kept anywhere.
"""

from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_count, check_floating
from lightning_losses.parallel.processes import gather_batch, sizes_of_all

Choice = Literal["token", "feature", "mutual"]


class Kept(NamedTuple):
    """What an activation keeps.

    Attributes:
        codes: the values that are kept, at least 0; 0 elsewhere.
        threshold: the smallest value that is kept: of each latent for `feature_choice`, of all for `mutual_choice`, of
            each sample for `token_choice`.
    """

    codes: Float[Tensor, "batch latents"]
    threshold: Float[Tensor, "..."]


def token_choice(values: Float[Tensor, "batch latents"], k: int) -> Kept:
    """Keep the k largest values of each sample; of these, negative ones become 0 (TopK).

    Raises:
        ValueError: another shape or dtype; a k below 1.

    Source:
        Gao et al., 2024, "Scaling and evaluating sparse autoencoders", arXiv:2406.04093.

    Example:
        >>> token_choice(torch.tensor([[1.0, 3.0, 2.0], [-1.0, -2.0, 5.0]]), 2).codes
        tensor([[0., 3., 2.],
                [0., 0., 5.]])
    """
    _check("token_choice", values, k)
    return _kept(values, values.detach().topk(min(k, values.shape[1]), dim=1).values[:, -1:])


def feature_choice(values: Float[Tensor, "batch latents"], k: int) -> Kept:
    """Keep the largest values of each latent: as many for each as makes k for a sample on average, at least one.

    No latent goes without a sample, and a sample gets as many as choose it. Values that equal the last one are kept.

    Args:
        values: [B, F] before the activation.
        k: the mean number of latents of a sample; each latent keeps ``k B / F`` samples, rounded.

    Raises:
        ValueError: another shape or dtype; a k below 1.

    Source:
        Ayonrinde, 2024, "Adaptive Sparse Allocation with Mutual Choice & Feature Choice Sparse Autoencoders",
        arXiv:2411.02124.

    Example:
        >>> feature_choice(torch.tensor([[1.0, 9.0], [4.0, 7.0]]), 1).codes
        tensor([[0., 9.],
                [4., 0.]])
    """
    _check("feature_choice", values, k)
    samples, latents = _samples(values), values.shape[1]
    each = min(max(round(k * samples / latents), 1), samples)
    if each == 0:
        return _kept(values, values.new_zeros(latents))
    largest = values.detach().topk(min(each, len(values)), dim=0).values
    return _kept(values, gather_batch(largest).topk(each, dim=0).values[-1])


def mutual_choice(values: Float[Tensor, "batch latents"], k: int) -> Kept:
    """Keep the k B largest values of all B samples and all latents together (BatchTopK).

    Hard samples get more latents than easy ones. Values that equal the last one are kept.

    Args:
        values: [B, F] before the activation.
        k: the mean number of latents of a sample.

    Raises:
        ValueError: another shape or dtype; a k below 1.

    Source:
        Ayonrinde, 2024, arXiv:2411.02124; Bussmann, Leask, Nanda, 2024, "BatchTopK Sparse Autoencoders",
        arXiv:2412.06410.

    Example:
        >>> mutual_choice(torch.tensor([[1.0, 9.0], [4.0, 7.0]]), 1).codes
        tensor([[0., 9.],
                [0., 7.]])
    """
    _check("mutual_choice", values, k)
    budget = _samples(values) * min(k, values.shape[1])
    if budget == 0:
        return _kept(values, values.new_zeros(()))
    largest = values.detach().flatten().topk(min(budget, values.numel())).values
    return _kept(values, gather_batch(largest).topk(budget).values[-1])


def _check(who: str, values: Tensor, k: int) -> None:
    check_floating(who, "values", values)
    check_count(who, "k", k)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{who}: values of shape {list(values.shape)} came; give [batch, latents].")


def _samples(values: Tensor) -> int:
    """How many samples all processes have."""
    return sum(sizes_of_all(len(values), values.device))


def _kept(values: Tensor, threshold: Tensor) -> Kept:
    return Kept(values.relu() * (values.detach() >= threshold), threshold)
