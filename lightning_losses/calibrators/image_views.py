"""Deterministic transformed views of a batch of images, for calibrators that use several views."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LUMINANCE = (0.299, 0.587, 0.114)
_COSINE, _SINE = 0.9659258262890683, 0.25881904510252074


def image_views(
    images: Float[Tensor, "batch channels height width"], views: Sequence[str]
) -> list[Float[Tensor, "batch channels height width"]]:
    """The images, transformed in the named ways; each view depends on the image alone, without randomness.

    Args:
        images: [B, C, H, W], of any range, normalised or not.
        views: of "rotate" (by 15 degrees about the centre, zeros outside), "grayscale" (the luminance in every channel;
            the image itself where it has not three), "color_jitter" (contrast reduced to 0.6 about the image's mean,
            and a fifth of its deviation added), "translate" (down and right by a fourteenth of the size) and "blur"
            (a 3x3 mean).

    Returns:
        As many batches as there are views, each [B, C, H, W].

    Raises:
        ValueError: inputs that are no batch of images; a view of another name.

    Example:
        >>> import torch
        >>> [view.shape[-1] for view in image_views(torch.zeros(2, 3, 8, 8), ["rotate", "grayscale"])]
        [8, 8]
    """
    check_views("image_views", views)
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"image_views: inputs of shape {list(images.shape)} and dtype {images.dtype} came; views are made of "
            "floating-point images [B, C, H, W]."
        )
    return [_VIEWS[view](images) for view in views]


def check_views(who: str, views: Sequence[str]) -> None:
    """Refuse names that are no views."""
    if isinstance(views, str) or not views or any(view not in _VIEWS for view in views):
        raise ValueError(f"{who}: views={views!r} came; give a list of {', '.join(_VIEWS)}.")


def _rotate(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    # The grid's coordinates are relative to the sides; without the ratio, images that aren't square would be sheared.
    turn = images.new_tensor([[_COSINE, -_SINE * height / width, 0.0], [_SINE * width / height, _COSINE, 0.0]])
    grid = F.affine_grid(turn.expand(images.shape[0], 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _grayscale(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images
    weights = images.new_tensor(_LUMINANCE).reshape(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True).expand_as(images)


def _color_jitter(images: Tensor) -> Tensor:
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + 0.6 * (images - mean) + 0.2 * images.std(dim=(1, 2, 3), keepdim=True, unbiased=False)


def _translate(images: Tensor) -> Tensor:
    down, right = max(images.shape[-2] // 14, 1), max(images.shape[-1] // 14, 1)
    return F.pad(images[..., :-down, :-right], (right, 0, down, 0))


def _blur(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


_VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rotate": _rotate,
    "grayscale": _grayscale,
    "color_jitter": _color_jitter,
    "translate": _translate,
    "blur": _blur,
}
