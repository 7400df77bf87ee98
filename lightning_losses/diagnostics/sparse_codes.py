"""What can be measured of a sparse autoencoder's codes and reconstructions."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.diagnostics.checks import check_points
from lightning_losses.diagnostics.kernel_similarity import centred_points


@torch.no_grad()
def explained_variance(
    features: Float[Tensor, "samples d"], reconstruction: Float[Tensor, "samples d"]
) -> Float[Tensor, ""]:
    """``1 - Σ|x - x̂|² / Σ|x - mean x|²``: 1 where the reconstruction is right, 0 where it is no better than the mean.

    In float64; below 0 where it is worse. NaN where all features are equal.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> explained_variance(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.5], [1.5]])).item()
        0.75
    """
    for name, points in (("features", features), ("reconstruction", reconstruction)):
        check_points("explained_variance", name, points)
    if features.shape != reconstruction.shape:
        raise ValueError(
            f"explained_variance: features of shape {list(features.shape)} came with a reconstruction of shape "
            f"{list(reconstruction.shape)}; give the same shape twice."
        )
    x = features.double()
    left, whole = (x - reconstruction.double()).square().sum(), centred_points(x).square().sum()
    return 1 - left / torch.where(whole > 0, whole, torch.nan)


@torch.no_grad()
def latent_frequencies(codes: Float[Tensor, "samples latents"]) -> Float[Tensor, " latents"]:
    """The share of samples that use each latent, from the most used to the least: frequency by rank.

    The share of zeros among them is that of the latents that none of these samples uses.

    Raises:
        ValueError: another shape.

    Example:
        >>> latent_frequencies(torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 3.0]])).tolist()
        [1.0, 0.5, 0.0]
    """
    check_points("latent_frequencies", "codes", codes)
    return (codes > 0).double().mean(dim=0).sort(descending=True).values
