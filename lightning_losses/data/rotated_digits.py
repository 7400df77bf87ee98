"""Digits in domains that are rotated by unlike angles."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.data.domain_data import DomainData, DomainImages, spread_over_domains
from lightning_losses.data.mnist5k import MNIST5k
from lightning_losses.numerics.checks import check_numbers


class RotatedDigits(DomainData):
    """The images of MNIST-5k in domains, each rotated by another angle.

    Every image is in one domain alone, so that no domain shows another one's digits; `split_seed` fixes which. Images
    are rotated about their centre, with bilinear interpolation and black where nothing was.

    Args:
        angles: of the domains, in degrees, counter-clockwise; two at least.
        folder: as `MNIST5k` takes it.
        test_domain, num_domains, batch_size, ...: see `DomainData`.

    Raises:
        ValueError: angles that are no numbers; see `DomainData`.

    Source:
        Ghifary, Kleijn, Zhang, Balduzzi, 2015, "Domain Generalization for Object Recognition with Multi-task
        Autoencoders", arXiv:1508.07680; as in Gulrajani and Lopez-Paz, 2020, "In Search of Lost Domain Generalization",
        arXiv:2007.01434, images are split among the domains.

    Example:
        >>> data = RotatedDigits(angles=[0, 30, 60], test_domain=2, num_domains=2)
        >>> data.domain_names
        ('0°', '30°', '60°')
    """

    name = "rotated_digits"
    num_classes = 10
    input_shape = (1, 28, 28)
    class_names = tuple("0123456789")
    test_domain = 5
    num_domains = 5
    batch_size = 160

    _: KW_ONLY
    angles: Sequence[float] = (0, 15, 30, 45, 60, 75)
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        check_numbers(self.name, "angles", self.angles)
        super().__post_init__()

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The angles."""
        return tuple(f"{angle:g}°" for angle in self.angles)

    def prepare_data(self) -> None:
        """Parse the images of MNIST-5k, unless that is done."""
        MNIST5k(folder=self.folder).prepare_data()

    def read_domains(self) -> DomainImages:
        """The images, rotated."""
        images = MNIST5k(folder=self.folder).read()
        domain = spread_over_domains(images.target, len(self.angles), self.split_seed)
        pixels = torch.from_numpy(images.pixels)
        for number, angle in enumerate(self.angles):
            members = torch.from_numpy(np.flatnonzero(domain == number))
            pixels[members] = rotated(pixels[members], angle)
        return DomainImages(pixels.numpy(), images.target, domain)


def rotated(
    images: Float[Tensor, "batch channels height width"], degrees: float
) -> Float[Tensor, "batch channels height width"]:
    """Square images rotated about their centre, counter-clockwise; 0 where nothing was.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> rotated(image, 90).round(decimals=3).tolist()
        [[[[2.0, 4.0], [1.0, 3.0]]]]
    """
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Of each new place, where it was; the second axis points down.
    motion = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]], dtype=images.dtype)
    grid = F.affine_grid(motion.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
