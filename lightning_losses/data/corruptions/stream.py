"""A test split as a stream: the whole split under one corruption after another."""

from collections.abc import Sequence
from dataclasses import KW_ONLY

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_losses.data.corruptions.corruption import Severity, corrupted
from lightning_losses.data.corruptions.images import IMAGE_CORRUPTIONS
from lightning_losses.data.corruptions.signals import SIGNAL_CORRUPTIONS
from lightning_losses.data.image_data import ImageData, ImageDataset
from lightning_losses.data.loading import Batch
from lightning_losses.numerics.settings import Count


class CorruptedDataset(ImageDataset):
    """Samples of several domains, one after another; batches hold each sample's `domain`, too."""

    def __init__(self, inputs: Tensor, target: Int[Tensor, " samples"], domain: Int[Tensor, " samples"]) -> None:
        super().__init__(inputs, target)
        self.domain = domain

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the samples at these positions."""
        return {**super().__getitems__(positions), "domain": self.domain[torch.as_tensor(positions)]}


class CorruptionStream(ImageData):
    """Has an image data set's test split come under one corruption after another; training and validation stay clean.

    It stands behind the data set that it changes. A sample's `domain` is the number of its corruption in `corruptions`,
    and each corruption draws its own order of the split. Inputs are corrupted before they are normalised, by mean and
    variance of the clean training split.

    Args:
        corruptions: the kinds, in the order of the stream; none is all that there are for these data, in their order.
        severity: of all corruptions, from 1 to 5.
        stream_batch_size: size of the test batches, over the ends of corruptions, too.
        batch_size, ...: see the data set.

    Raises:
        ValueError: a kind that these data can't have.
    """

    _: KW_ONLY
    corruptions: Sequence[str] = ()
    severity: Severity = 5
    stream_batch_size: Count = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        known = IMAGE_CORRUPTIONS if len(self.input_shape) == 3 else SIGNAL_CORRUPTIONS
        if isinstance(self.corruptions, str) or any(kind not in known for kind in self.corruptions):
            raise ValueError(f"{self.name}: corruptions={self.corruptions!r} came; give a list of {', '.join(known)}.")
        self.corruptions = list(self.corruptions) or list(known)

    def splits(self) -> tuple[ImageDataset, ImageDataset, ImageDataset]:
        """The splits; the test split is the stream."""
        train, val, test = super().splits()
        raw = (test.inputs * self.input_deviation + self.input_mean).to(test.inputs.dtype)
        # Rounding may have left the range.
        raw = raw.clamp(0.0, 1.0) if raw.ndim == 4 else raw
        order = torch.Generator().manual_seed(self.split_seed)
        parts = []
        for kind in self.corruptions:
            drawn = torch.randperm(len(test), generator=order)
            changed = corrupted(raw[drawn], kind, self.severity, self.split_seed, drawn.tolist())
            parts.append(
                (((changed - self.input_mean) / self.input_deviation).to(test.inputs.dtype), test.target[drawn])
            )
        inputs, target = (torch.cat(part) for part in zip(*parts, strict=True))
        domain = torch.arange(len(self.corruptions)).repeat_interleave(len(test))
        return train, val, CorruptedDataset(inputs, target, domain)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The stream in order, whole on every process."""
        return self.loader(self.test, self.stream_batch_size)
