"""Random views of images and signals, as `SeededViews` and `TwoViews` take them."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.numerics.row_generator import Randomness, normal, uniform
from lightning_losses.numerics.settings import Bound, Declared, NonNegative, Share, Whole


class RandomAffine(Declared):
    """Turns, scales and moves an image, then covers a square of it and adds noise; new pixels repeat the border.

    Args:
        degrees: the largest angle in either direction, at least 0.
        scale: the largest relative change of size, in [0, 1).
        shift: the largest shift in each direction, as a share of the image, in [0, 1].
        cover: the side of the covered square as a share of the image's, in [0, 1]; it gets the image's smallest value.
        noise: the standard deviation of noise, at least 0.

    Example:
        >>> image = torch.eye(3).unsqueeze(0)
        >>> RandomAffine(degrees=20.0)(image, torch.Generator().manual_seed(0)).shape
        torch.Size([1, 3, 3])
    """

    name = "RandomAffine"

    degrees: NonNegative = 15.0
    scale: Annotated[float, Bound(least=0, below=1)] = 0.15
    shift: Share = 0.1
    cover: Share = 0.0
    noise: NonNegative = 0.0

    def __call__(
        self, image: Float[Tensor, "channels height width"], generator: torch.Generator
    ) -> Float[Tensor, "channels height width"]:
        """The view of an image."""
        return self.of_batch(image.unsqueeze(0), generator)[0]

    def of_batch(
        self, images: Float[Tensor, "batch channels height width"], generator: Randomness
    ) -> Float[Tensor, "batch channels height width"]:
        """A view of each image, with its own random numbers."""
        height, width = images.shape[-2:]
        turn, size, down, right, top, left = uniform(
            images.new_empty(len(images), 6, dtype=torch.float32), generator
        ).unbind(dim=1)
        angle, factor = math.radians(self.degrees) * (2 * turn - 1), 1 + self.scale * (2 * size - 1)
        cosine, sine = angle.cos() / factor, angle.sin() / factor
        # In grid_sample's units an image reaches from -1 to 1.
        rows = [
            torch.stack([cosine, -sine * height / width, 2 * self.shift * (2 * right - 1)], dim=1),
            torch.stack([sine * width / height, cosine, 2 * self.shift * (2 * down - 1)], dim=1),
        ]
        grid = F.affine_grid(torch.stack(rows, dim=1).to(images), list(images.shape), align_corners=False)
        views = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        if covered := round(self.cover * min(height, width)):
            across = _within(left, width, covered).view(-1, 1, 1, width)
            inside = _within(top, height, covered).view(-1, 1, height, 1) & across
            views = torch.where(inside, images.amin(dim=(1, 2, 3), keepdim=True), views)
        return _with_noise(views, self.noise, generator)


class RandomSignal(Declared):
    """Moves a signal around, stretches its values, adds a slope and noise; what leaves at one end enters at the other.

    Args:
        shift: the most positions that it is moved in each direction.
        scale: the largest relative change of its values, in [0, 1).
        slope: the largest difference that is added from one end to the other, at least 0.
        noise: the standard deviation of noise, at least 0.

    Example:
        >>> signal = torch.arange(4.0).unsqueeze(0)
        >>> RandomSignal(shift=1)(signal, torch.Generator().manual_seed(0)).shape
        torch.Size([1, 4])
    """

    name = "RandomSignal"

    shift: Whole = 8
    scale: Annotated[float, Bound(least=0, below=1)] = 0.25
    slope: NonNegative = 0.5
    noise: NonNegative = 0.1

    def __call__(
        self, signal: Float[Tensor, "channels length"], generator: torch.Generator
    ) -> Float[Tensor, "channels length"]:
        """The view of a signal."""
        return self.of_batch(signal.unsqueeze(0), generator)[0]

    def of_batch(
        self, signals: Float[Tensor, "batch channels length"], generator: Randomness
    ) -> Float[Tensor, "batch channels length"]:
        """A view of each signal, with its own random numbers."""
        numbers = 2 * uniform(signals.new_empty(len(signals), 3, 1, 1, dtype=torch.float32), generator) - 1
        moved, size, incline = numbers.unbind(dim=1)
        length = signals.shape[-1]
        places = torch.arange(length, device=signals.device) - (self.shift * moved).round().long()
        rolled = signals.gather(-1, (places % max(length, 1)).expand(signals.shape))
        line = torch.linspace(-0.5, 0.5, length, dtype=signals.dtype, device=signals.device)
        views = (1 + self.scale * size).to(signals) * rolled + (self.slope * incline).to(signals) * line
        return _with_noise(views, self.noise, generator)


def _within(begin: Float[Tensor, " batch"], length: int, covered: int) -> Bool[Tensor, "batch length"]:
    """Which places of a side are covered; the first covered one is at a share of those where it may be."""
    first = (begin * (length - covered + 1)).floor().unsqueeze(1)
    place = torch.arange(length, device=begin.device)
    return (place >= first) & (place < first + covered)


def _with_noise(
    views: Float[Tensor, "batch ..."], deviation: float, generator: Randomness
) -> Float[Tensor, "batch ..."]:
    return views + deviation * normal(views, generator) if deviation else views
