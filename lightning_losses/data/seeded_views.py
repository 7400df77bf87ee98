"""Reproducible augmented views: a view depends only on a seed, the sample's position and the view's number."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.data.loading import Batch, BatchDataset
from lightning_losses.numerics.checks import check_count
from lightning_losses.numerics.row_generator import Randomness, RowGenerator, uniform
from lightning_losses.numerics.settings import Bound, Count, Declared
from lightning_losses.samplers.resumable import ResumableSampler

Augmentation = Callable[
    [Float[Tensor, "channels height width"], torch.Generator], Float[Tensor, "channels height width"]
]


class RandomShift:
    """Shifts an image by up to some pixels in each direction; new pixels get the image's smallest value.

    Args:
        pixels: the largest shift, at least 1.

    Example:
        >>> image = torch.eye(3).unsqueeze(0)
        >>> RandomShift(1)(image, torch.Generator().manual_seed(0)).shape
        torch.Size([1, 3, 3])
    """

    def __init__(self, pixels: int = 2) -> None:
        check_count("RandomShift", "pixels", pixels)
        self.pixels = pixels

    def __call__(
        self, image: Float[Tensor, "channels height width"], generator: torch.Generator
    ) -> Float[Tensor, "channels height width"]:
        """The image, moved."""
        return self.of_batch(image.unsqueeze(0), generator)[0]

    def of_batch(
        self, images: Float[Tensor, "batch channels height width"], generator: Randomness
    ) -> Float[Tensor, "batch channels height width"]:
        """The images, each moved by itself."""
        height, width = images.shape[-2:]
        drawn = uniform(images.new_empty(len(images), 2, dtype=torch.float32), generator)
        # The largest number below 1, times the number of shifts, can be rounded up.
        shifts = (drawn * (2 * self.pixels + 1)).floor().clamp_(max=2 * self.pixels).long() - self.pixels
        down, right = (
            torch.arange(side, device=images.device) - shift.unsqueeze(1)
            for side, shift in zip((height, width), shifts.unbind(dim=1), strict=True)
        )
        rows = down.clamp(0, height - 1).view(-1, 1, height, 1).expand(images.shape)
        columns = right.clamp(0, width - 1).view(-1, 1, 1, width).expand(images.shape)
        old = ((down >= 0) & (down < height)).unsqueeze(2) & ((right >= 0) & (right < width)).unsqueeze(1)
        moved = images.gather(-2, rows).gather(-1, columns)
        return torch.where(old.unsqueeze(1), moved, images.amin(dim=(1, 2, 3), keepdim=True))


def seeded_view(augmentation: Augmentation, inputs: Float[Tensor, "channels ..."], *numbers: int) -> Tensor:
    """The view of one sample that these numbers, each at least 0, fix: a seed, the view's number, the sample's.

    Example:
        >>> image = torch.eye(3).unsqueeze(0)
        >>> bool((seeded_view(RandomShift(2), image, 0, 7) == seeded_view(RandomShift(2), image, 0, 7)).all())
        True
    """
    return augmentation(inputs, torch.Generator().manual_seed(_hashed(numbers)))


def seeded_views(
    augmentation: Augmentation,
    inputs: Float[Tensor, "batch ..."],
    *numbers: int,
    places: Int[Tensor, " batch"] | Sequence[int],
) -> Float[Tensor, "batch ..."]:
    """A view of each sample that these numbers and its place fix: other samples of the batch don't matter.

    All samples are changed at once by an augmentation that has a function `of_batch`, as this package's have; it takes
    a `RowGenerator`. With others this calls `seeded_view` for each.

    Args:
        augmentation: makes views.
        inputs: [B, ...] the samples.
        *numbers: whole numbers of at least 0, such as a seed and the view's number.
        places: [B] whole numbers, of which each fixes its sample's view.

    Example:
        >>> images = torch.eye(3).repeat(2, 1, 1, 1)
        >>> one, other = (seeded_views(RandomShift(2), images, 0, places=places) for places in ([5, 7], [7, 9]))
        >>> torch.equal(one[1], other[0])
        True
    """
    if len(places) != len(inputs):
        raise ValueError(
            f"seeded_views: {len(places)} places came with inputs of shape {list(inputs.shape)}; give the place of "
            "each sample."
        )
    if not len(inputs):
        return inputs
    of_batch = getattr(augmentation, "of_batch", None)
    if of_batch is not None:
        views: Tensor = of_batch(inputs, RowGenerator(_hashed(numbers), torch.as_tensor(places, dtype=torch.int64)))
        return views
    known = places.tolist() if isinstance(places, Tensor) else places
    each = [seeded_view(augmentation, one, *numbers, place) for one, place in zip(inputs, known, strict=True)]
    return torch.stack(each)


def _hashed(numbers: Sequence[int]) -> int:
    # Consecutive numbers give independent streams only through a hash.
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class SeededViews(Declared, BatchDataset):
    """Several augmented views of every sample of a data set, always the same.

    Its length is the number of all views: position ``view * len(dataset) + position`` holds that view of that sample.
    Its batches hold this number as `view_index`, by which a cached teacher is read, and the sample's own position as
    `index`. `cache_teacher` evaluates a teacher once on all views; the student then sees exactly these views, one of
    each sample per epoch, by `ViewSampler`.

    Args:
        dataset: the samples, such as an `ImageDataset`; a list of positions returns a batch.
        augmentation: a function that makes a view of one sample's `inputs`, with all random numbers from the given
            generator.
        views: number of views per sample, at least 1; afterwards they repeat.
        seed: seed of all views.
        pairs: whether batches also hold each sample's next view, as `other_inputs`; needs two views at least.

    Example:
        >>> from lightning_losses.data import ImageDataset
        >>> samples = ImageDataset(torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 0]))
        >>> data = SeededViews(samples, RandomShift(1), views=2)
        >>> batch = data.__getitems__([4, 1])
        >>> len(data), batch["index"].tolist(), batch["view_index"].tolist()
        (6, [1, 1], [4, 1])
    """

    name = "SeededViews"

    dataset: Any
    augmentation: Augmentation
    views: Count = 1
    seed: Annotated[int, Bound(least=0)] = 0
    pairs: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs and self.views < 2:
            raise ValueError(f"{self.name}: pairs=True came with one view, whose next is itself; give two or more.")

    def __len__(self) -> int:
        return self.views * len(self.dataset)

    def __getitems__(self, numbers: list[int]) -> Batch:
        """The batch of these views."""
        batch = self.dataset.__getitems__([number % len(self.dataset) for number in numbers])
        found = {**batch, "inputs": seeded_views(self.augmentation, batch["inputs"], self.seed, places=numbers)}
        if self.pairs:
            following = [(number + len(self.dataset)) % len(self) for number in numbers]
            found["other_inputs"] = seeded_views(self.augmentation, batch["inputs"], self.seed, places=following)
        return {**found, "view_index": torch.as_tensor(numbers, dtype=torch.int64)}


class ViewSampler(ResumableSampler):
    """Shuffled samples, each process its share, with view e in epoch e, cyclically.

    Args:
        data: the views.
        num_replicas: the number of processes.
        rank: this process.
        seed: seed of the order, which equals that of a `DistributedSampler` of the samples.
        order: the sampler of the samples whose order it takes instead, for the same processes.

    Example:
        >>> from lightning_losses.data import ImageDataset
        >>> samples = ImageDataset(torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 0]))
        >>> sampler = ViewSampler(SeededViews(samples, RandomShift(1), views=2), 1, 0)
        >>> sampler.set_epoch(3)
        >>> sorted(sampler)
        [3, 4, 5]
    """

    def __init__(
        self, data: SeededViews, num_replicas: int, rank: int, seed: int = 0, order: ResumableSampler | None = None
    ) -> None:
        super().__init__(data.dataset, num_replicas, rank, shuffle=True, seed=seed)
        self.views = data.views
        self.order = order

    def __len__(self) -> int:
        return super().__len__() if self.order is None else len(self.order)

    def _order(self) -> Iterator[int]:
        start = (self.epoch % self.views) * len(self.dataset)  # type: ignore[arg-type]
        if self.order is None:
            return (start + position for position in super()._order())
        self.order.set_epoch(self.epoch)
        return (start + position for position in self.order)
