"""A corruption of one kind and severity, of single samples or of many."""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.data.corruptions.images import IMAGE_CORRUPTIONS, Kind
from lightning_losses.data.corruptions.signals import SIGNAL_CORRUPTIONS
from lightning_losses.data.seeded_views import seeded_views
from lightning_losses.numerics.settings import Bound, Declared

Severity = Annotated[int, Bound(least=1, most=5)]
_OF_DIMENSIONS = {3: ("image", IMAGE_CORRUPTIONS), 2: ("signal", SIGNAL_CORRUPTIONS)}


class Corruption(Declared):
    """A corruption of an image in [0, 1], or of a signal; an augmentation, too.

    Args:
        kind: of images one of `IMAGE_CORRUPTIONS`, of signals one of `SIGNAL_CORRUPTIONS`.
        severity: from 1, the weakest, to 5.

    Shapes:
        sample: [channels, height, width] with values in [0, 1], which the result has too; or [channels, length].

    Raises:
        ValueError: a kind that there is not; values out of [0, 1], or not finite.

    Source:
        The scheme of kinds and severities is that of Hendrycks and Dietterich, 2019, "Benchmarking Neural Network
        Robustness to Common Corruptions and Perturbations", arXiv:1903.12261; the corruptions and their strengths are
        our own, for small images.

    Example:
        >>> image = torch.zeros(1, 4, 4)
        >>> Corruption("brightness", severity=3)(image, torch.Generator()).unique()
        tensor([0.5000])
    """

    name = "corruption"

    kind: str
    severity: Severity = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in {**IMAGE_CORRUPTIONS, **SIGNAL_CORRUPTIONS}:
            raise ValueError(
                f"corruption: kind={self.kind!r} came; for images give one of {_listed(3)}, for signals "
                f"one of {_listed(2)}."
            )

    def __call__(
        self, sample: Float[Tensor, "channels ..."], generator: torch.Generator
    ) -> Float[Tensor, "channels ..."]:
        """The sample, corrupted, with all random numbers from the generator."""
        kind = self._kind(sample)
        changed = kind.apply(sample, kind.strengths[self.severity - 1], generator)
        return changed.clamp(0.0, 1.0) if sample.ndim == 3 else changed

    def _kind(self, sample: Tensor) -> Kind:
        if sample.ndim not in _OF_DIMENSIONS or not sample.is_floating_point():
            raise ValueError(
                f"corruption: {sample.dtype} of shape {list(sample.shape)} came; give an image [channels, height, "
                "width] or a signal [channels, length] of floating-point numbers."
            )
        what, kinds = _OF_DIMENSIONS[sample.ndim]
        if self.kind not in kinds:
            raise ValueError(f"corruption: kind={self.kind!r} came with {what}s; give one of {_listed(sample.ndim)}.")
        low, high = sample.min().item(), sample.max().item()
        # NaN is in no range.
        if not (0 <= low <= high <= 1 if what == "image" else -torch.inf < low <= high < torch.inf):
            wanted = "values in [0, 1], before they are normalised" if what == "image" else "finite values"
            raise ValueError(f"corruption: {what}s with values from {low:g} to {high:g} came; give {wanted}.")
        return kinds[self.kind]


def corrupted(
    samples: Float[Tensor, "samples channels ..."],
    kind: str,
    severity: int = 3,
    seed: int = 0,
    index: Sequence[int] | None = None,
) -> Float[Tensor, "samples channels ..."]:
    """Every sample with a corruption that depends on the seed, the kind and the sample's position alone.

    A sample's random numbers are the same at all severities.

    Args:
        samples: images in [0, 1], or signals.
        kind, severity: see `Corruption`.
        seed: of all corruptions, at least 0.
        index: the samples' positions; None counts from 0.

    Example:
        >>> images = torch.rand(3, 1, 8, 8)
        >>> whole = corrupted(images, "fog", severity=2)
        >>> bool((corrupted(images[2:], "fog", severity=2, index=[2]) == whole[2:]).all())
        True
    """
    corruption = Corruption(kind, severity)
    number = list({**IMAGE_CORRUPTIONS, **SIGNAL_CORRUPTIONS}).index(kind)
    positions = range(len(samples)) if index is None else index
    if len(positions) != len(samples):
        raise ValueError(f"corruption: {len(positions)} positions came with {len(samples)} samples; give one for each.")
    return seeded_views(corruption, samples, seed, number, places=positions)


def _listed(dimensions: int) -> str:
    return ", ".join(_OF_DIMENSIONS[dimensions][1])
