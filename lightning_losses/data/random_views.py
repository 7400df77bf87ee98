"""Random views of images and signals, as `SeededViews` and `TwoViews` take them."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

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
        height, width = image.shape[-2:]
        turn, size, down, right, top, left = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
        angle, factor = math.radians(self.degrees) * (2 * turn - 1), 1 + self.scale * (2 * size - 1)
        cosine, sine = math.cos(angle) / factor, math.sin(angle) / factor
        # In grid_sample's units the image reaches from -1 to 1.
        rows = [
            [cosine, -sine * height / width, 2 * self.shift * (2 * right - 1)],
            [sine * width / height, cosine, 2 * self.shift * (2 * down - 1)],
        ]
        grid = F.affine_grid(image.new_tensor([rows]), [1, *image.shape], align_corners=False)
        view = F.grid_sample(image.unsqueeze(0), grid, padding_mode="border", align_corners=False)[0]
        if covered := round(self.cover * min(height, width)):
            begins = [int(place * (side - covered + 1)) for place, side in ((top, height), (left, width))]
            view[..., begins[0] : begins[0] + covered, begins[1] : begins[1] + covered] = image.min()
        return _with_noise(view, self.noise, generator)


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
        length = signal.shape[-1]
        moved, size, incline = (2 * torch.rand(3, generator=generator, dtype=torch.float64) - 1).tolist()
        line = torch.linspace(-0.5, 0.5, length, dtype=signal.dtype, device=signal.device)
        view = (1 + self.scale * size) * signal.roll(round(self.shift * moved), dims=-1) + self.slope * incline * line
        return _with_noise(view, self.noise, generator)


def _with_noise(view: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    if not deviation:
        return view
    return view + deviation * torch.randn(view.shape, generator=generator).to(view)
