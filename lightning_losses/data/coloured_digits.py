"""Digits whose colour agrees with the label in training, and not where it counts."""

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path

import numpy as np

from lightning_losses.data.domain_data import DomainData, DomainImages, spread_over_domains
from lightning_losses.data.mnist5k import MNIST5k
from lightning_losses.numerics.checks import check_numbers
from lightning_losses.numerics.settings import Share


class ColouredDigits(DomainData):
    """Digits below 5 against the others, in MNIST-5k, red or green: the colour tells the label, but not everywhere.

    A label is flipped with the probability `flipped`, in all splits, so that no network that looks at shapes alone is
    more often right than one minus that. The colour is the label, but for a share of each domain that disagrees: 0.1,
    0.2 and 0.9. Trained on the first two, a network is more often right by colour than by shape; in the third the
    colour misleads it. Images are means of 2x2 pixels, 14x14, in two channels, the digit being in one of them.
    `split_seed` fixes domains, flips and colours.

    Args:
        disagreement: for each domain the share of samples whose colour is not that of their label; two domains at
            least.
        flipped: the share of labels that are flipped, in [0, 1].
        folder: as `MNIST5k` takes it.
        test_domain, num_domains, batch_size, ...: see `DomainData`.

    Raises:
        ValueError: a share out of range.

    Source:
        Arjovsky, Bottou, Gulrajani, Lopez-Paz, 2019, "Invariant Risk Minimization", arXiv:1907.02893, and its code,
        facebookresearch/InvariantRiskMinimization, which takes every second pixel of all 50,000 training images.

    Example:
        >>> ColouredDigits(disagreement=[0.1, 0.9], test_domain=1, num_domains=1).domain_names
        ('10 % disagree', '90 % disagree')
    """

    name = "coloured_digits"
    num_classes = 2
    input_shape = (2, 14, 14)
    class_names = ("0 to 4", "5 to 9")
    test_domain = 2
    num_domains = 2
    batch_size = 256

    _: KW_ONLY
    disagreement: Sequence[float] = (0.1, 0.2, 0.9)
    flipped: Share = 0.25
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        check_numbers(self.name, "disagreement", self.disagreement, least=0, most=1)
        super().__post_init__()

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The share of samples in which colour and label disagree."""
        return tuple(f"{100 * share:g} % disagree" for share in self.disagreement)

    def prepare_data(self) -> None:
        """Parse the images of MNIST-5k, unless that is done."""
        MNIST5k(folder=self.folder).prepare_data()

    def read_domains(self) -> DomainImages:
        """The images, coloured."""
        images = MNIST5k(folder=self.folder).read()
        domain = spread_over_domains(images.target, len(self.disagreement), self.split_seed)
        random = np.random.RandomState(self.split_seed)
        target = (images.target >= 5) ^ (random.random_sample(len(domain)) < self.flipped)
        colour = target ^ (random.random_sample(len(domain)) < np.asarray(self.disagreement)[domain])
        small = images.pixels.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
        pixels = np.zeros((len(small), 2, 14, 14), dtype=np.float32)
        pixels[np.arange(len(small)), colour.astype(np.int64)] = small
        return DomainImages(pixels, target.astype(np.int64), domain)
