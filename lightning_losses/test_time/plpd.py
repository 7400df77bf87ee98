"""PLPD: how much less likely an image's predicted class becomes as the shapes in it are destroyed."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lightning_losses.numerics.probabilities import full_precision

Images = Float[Tensor, "batch channels height width"]


def plpd(
    logits: Float[Tensor, "*rows classes"], destroyed_logits: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "*rows"]:
    """Pseudo-label probability difference, in [-1, 1]: ``p_k - p'_k``, k the class that p finds likeliest.

    Small where a prediction does not come from shapes: from a colour, a texture, a background.

    Args:
        logits: of the images.
        destroyed_logits: of the same images, destroyed.

    Raises:
        ValueError: different shapes.

    Source:
        Lee, Jung, Lee, Park, Shin, Hwang, Yoon, 2024, "Entropy is not Enough for Test-Time Adaptation: From the
        Perspective of Disentangled Factors", arXiv:2403.07366.

    Example:
        >>> plpd(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor([0.7616])
    """
    if logits.shape != destroyed_logits.shape:
        raise ValueError(
            f"plpd: logits of shape {list(logits.shape)} came with those of destroyed images of shape "
            f"{list(destroyed_logits.shape)}; give both of the same images and classes."
        )
    p, of_destroyed = (full_precision(each).softmax(dim=-1) for each in (logits, destroyed_logits))
    likeliest = p.argmax(dim=-1, keepdim=True)
    return (p.gather(-1, likeliest) - of_destroyed.gather(-1, likeliest)).squeeze(-1)


def shuffled_patches(images: Images, pieces: int, generator: torch.Generator) -> Images:
    """Images cut into ``pieces x pieces`` patches, which each image has in an order of its own.

    Sides that the number does not divide are stretched to a multiple of it before, and shrunk again after.

    Example:
        >>> image = torch.arange(4.0).view(1, 1, 2, 2)
        >>> shuffled_patches(image, 2, torch.Generator().manual_seed(0)).flatten().sort().values.tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    batch, channels, *sides = images.shape
    fitting = [pieces * max(round(side / pieces), 1) for side in sides]
    fitted = images if fitting == sides else functional.interpolate(images, fitting, mode="bilinear")
    height, width = (side // pieces for side in fitting)
    patches = fitted.view(batch, channels, pieces, height, pieces, width).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(batch, pieces**2, channels, height, width)
    order = torch.rand(batch, pieces**2, generator=generator, device=generator.device).argsort(dim=1).to(images.device)
    patches = patches[torch.arange(batch, device=images.device).unsqueeze(1), order]
    patches = patches.view(batch, pieces, pieces, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    joined = patches.reshape(batch, channels, *fitting)
    return joined if fitting == sides else functional.interpolate(joined, sides, mode="bilinear")


def permuted_pixels(images: Images, generator: torch.Generator) -> Images:
    """Images whose pixels are in another order, the same for the whole batch."""
    pixels = images.shape[2:].numel()
    order = torch.randperm(pixels, generator=generator, device=generator.device).to(images.device)
    return images.flatten(2)[..., order].view_as(images)


def occluded(images: Images, size: int, row: int, column: int) -> Images:
    """Images of which a square shows the mean of each channel.

    Args:
        images: the images.
        size: the square's side.
        row, column: its first row and column.
    """
    covered = images.clone()
    covered[..., row : row + size, column : column + size] = images.mean(dim=(2, 3), keepdim=True)
    return covered
