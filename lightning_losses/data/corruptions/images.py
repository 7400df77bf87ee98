"""Eight corruptions of images in [0, 1]; the strength of each at five severities stands in `IMAGE_CORRUPTIONS`."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Image = Float[Tensor, "channels height width"]


class Kind(NamedTuple):
    """A corruption: what it does to a sample at some strength, and its strengths, the weakest first."""

    apply: Callable[[Tensor, float, torch.Generator], Tensor]
    strengths: tuple[float, float, float, float, float]


def gaussian_noise(image: Image, deviation: float, generator: torch.Generator) -> Image:
    """Adds normal noise of this standard deviation to every pixel."""
    return image + deviation * torch.randn(image.shape, generator=generator).to(image)


def impulse_noise(image: Image, share: float, generator: torch.Generator) -> Image:
    """Sets this share of the pixels, chosen at random, to 0 or 1, with even chances."""
    chance = torch.rand(image.shape, generator=generator).to(image.device)
    return torch.where(chance < share / 2, 0.0, torch.where(chance < share, 1.0, image))


def gaussian_blur(image: Image, deviation: float, generator: torch.Generator) -> Image:
    """Averages with normal weights, whose standard deviation is in pixels; outside, the edge goes on."""
    weights = normal_weights(deviation).to(image)
    padding = len(weights) // 2
    padded = functional.pad(image, (padding,) * 4, mode="replicate").unsqueeze(1)
    return functional.conv2d(functional.conv2d(padded, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1)).squeeze(1)


def motion_blur(image: Image, length: float, generator: torch.Generator) -> Image:
    """Averages along a line of so many pixels in a random direction; outside, the edge goes on."""
    angle = math.pi * torch.rand((), generator=generator).item()
    reach = int(length) // 2
    steps = torch.arange(-reach, reach + 1)
    weights = torch.zeros(2 * reach + 1, 2 * reach + 1)
    rows, columns = (steps * math.sin(angle)).round().long(), (steps * math.cos(angle)).round().long()
    weights[rows + reach, columns + reach] = 1.0
    padded = functional.pad(image, (reach,) * 4, mode="replicate").unsqueeze(1)
    return functional.conv2d(padded, (weights / weights.sum()).to(image).view(1, 1, *weights.shape)).squeeze(1)


def pixelation(image: Image, share: float, generator: torch.Generator) -> Image:
    """Keeps this share of the resolution: means of blocks, each shown as large as it was."""
    height, width = (max(round(share * side), 1) for side in image.shape[1:])
    small = functional.adaptive_avg_pool2d(image, (height, width))
    return functional.interpolate(small.unsqueeze(0), image.shape[1:], mode="nearest").squeeze(0)


def brightness(image: Image, amount: float, generator: torch.Generator) -> Image:
    """Adds a constant to every pixel."""
    return image + amount


def contrast(image: Image, factor: float, generator: torch.Generator) -> Image:
    """Moves every pixel to the image's mean, so that this part of its distance is left."""
    mean = image.mean()
    return mean + factor * (image - mean)


def fog(image: Image, density: float, generator: torch.Generator) -> Image:
    """Mixes the image with a smooth random field in [0, 1], which gets this weight."""
    coarse = torch.rand(1, 1, 4, 4, generator=generator).to(image)
    field = functional.interpolate(coarse, image.shape[1:], mode="bilinear", align_corners=True)[0]
    return (1 - density) * image + density * field


def normal_weights(deviation: float) -> Float[Tensor, " positions"]:
    """The normal density at whole numbers up to three standard deviations, scaled to a sum of 1.

    Example:
        >>> normal_weights(0.6)
        tensor([0.0026, 0.1655, 0.6638, 0.1655, 0.0026])
    """
    reach = math.ceil(3 * deviation)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation).square())
    return weights / weights.sum()


IMAGE_CORRUPTIONS = {
    "gaussian_noise": Kind(gaussian_noise, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "impulse_noise": Kind(impulse_noise, (0.05, 0.1, 0.2, 0.3, 0.4)),
    "gaussian_blur": Kind(gaussian_blur, (0.6, 1.0, 1.4, 1.8, 2.2)),
    "motion_blur": Kind(motion_blur, (3, 5, 7, 9, 11)),
    "pixelation": Kind(pixelation, (0.6, 0.45, 0.35, 0.3, 0.25)),
    "brightness": Kind(brightness, (0.2, 0.35, 0.5, 0.65, 0.8)),
    "contrast": Kind(contrast, (0.5, 0.35, 0.25, 0.15, 0.1)),
    "fog": Kind(fog, (0.3, 0.4, 0.5, 0.6, 0.7)),
}
