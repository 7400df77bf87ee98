"""MNIST-1D in domains that are moved, scaled and noisy in unlike ways."""

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path

import numpy as np

from lightning_losses.data.domain_data import DomainData, DomainImages, spread_over_domains
from lightning_losses.data.mnist1d import MNIST1D
from lightning_losses.numerics.checks import check_numbers
from lightning_losses.numerics.settings import Count


class MNIST1DDomains(DomainData):
    """Sequences of MNIST-1D in domains, each rolled, scaled and made noisy in its own way.

    Every sequence is in one domain alone; `split_seed` draws the sequences, their domains and the noise.

    Args:
        rows: the sequences of all domains together.
        shifts: for each domain the number of positions by which its sequences are rolled; two domains at least.
        scales: for each domain the factor of its sequences.
        noises: for each domain the standard deviation of added noise, in units of the data's standard deviation.
        folder: as `MNIST1D` takes it.
        test_domain, num_domains, batch_size, ...: see `DomainData`.

    Raises:
        ValueError: shifts that are no whole numbers, noises below 0, or not one of each for every domain; see
            `DomainData`.

    Raises:
        ValueError: unlike numbers of shifts, scales and noises.

    Source:
        Greydanus and Kobak, 2020, "Scaling Down Deep Learning with MNIST-1D", arXiv:2011.14439; the domains are this
        library's own.

    Example:
        >>> MNIST1DDomains(shifts=[0, 4], scales=[1, 1], noises=[0, 0], num_domains=1, test_domain=1).domain_names
        ('shift 0, scale 1, noise 0', 'shift 4, scale 1, noise 0')
    """

    name = "mnist1d_domains"
    num_classes = 10
    input_shape = (1, 40)
    class_names = tuple("0123456789")
    test_domain = 3
    num_domains = 3
    batch_size = 126

    _: KW_ONLY
    rows: Count = 6000
    shifts: Sequence[int] = (0, 4, 8, 12)
    scales: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
    noises: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        check_numbers(self.name, "shifts", self.shifts)
        check_numbers(self.name, "scales", self.scales)
        check_numbers(self.name, "noises", self.noises, least=0)
        if part := [shift for shift in self.shifts if shift != int(shift)]:
            raise ValueError(f"{self.name}: shifts={part[0]!r} came; give whole numbers of positions.")
        if len({len(self.shifts), len(self.scales), len(self.noises)}) > 1:
            raise ValueError(
                f"{self.name}: {len(self.shifts)} shifts came with {len(self.scales)} scales and {len(self.noises)} "
                "noises; give one of each for every domain."
            )
        super().__post_init__()

    @property
    def domain_names(self) -> tuple[str, ...]:
        """How the sequences of each domain are changed."""
        changes = zip(self.shifts, self.scales, self.noises, strict=True)
        return tuple(f"shift {shift:g}, scale {scale:g}, noise {noise:g}" for shift, scale, noise in changes)

    def prepare_data(self) -> None:
        """Draw and store the sequences, unless that is done."""
        self._whole().prepare_data()

    def read_domains(self) -> DomainImages:
        """The sequences, changed."""
        images = self._whole().read()
        domain = spread_over_domains(images.target, len(self.shifts), self.split_seed)
        random, deviation = np.random.RandomState(self.split_seed), images.pixels.std()
        pixels = images.pixels.copy()
        for number, (shift, scale) in enumerate(zip(self.shifts, self.scales, strict=True)):
            members = domain == number
            pixels[members] = scale * np.roll(pixels[members], shift, axis=-1)
        noise = np.asarray(self.noises, dtype=np.float64)[domain] * deviation
        pixels += (noise[:, None, None] * random.standard_normal(pixels.shape)).astype(np.float32)
        return DomainImages(pixels, images.target, domain)

    def _whole(self) -> MNIST1D:
        # One row each to validate and to test on, which a split must have; all are read.
        return MNIST1D(
            num_classes=10,
            input_shape=(1, 40),
            rows=self.rows - 2,
            val_rows=1,
            test_rows=1,
            split_seed=self.split_seed,
            folder=self.folder,
        )
