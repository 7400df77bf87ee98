"""Sparse parity: the parity of a few bits among many."""

from typing import Annotated

import torch

from lightning_losses.data.loading import Batch
from lightning_losses.data.resident import ResidentData, random_split
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.settings import Bound, Count


class SparseParity(ResidentData):
    """Random bit strings whose class is the parity of their first bits; the other bits carry no information.

    Args:
        parity_bits: k, the number of bits that decide.
        noise_bits: the number of other bits.
        train_samples: number of training strings.
        test_samples: number of held-out strings; all strings are different.
        seed: seed of the strings and of the split.
        steps_per_epoch: see `ResidentData`.

    Raises:
        ValueError: numbers below 1 (noise_bits: below 0); more samples than there are strings; more than 62 bits.

    Source:
        Barak, Edelman, Goel, Kakade, Malach, Zhang, 2022, "Hidden Progress in Deep Learning: SGD Learns Parities Near
        the Computational Limit", arXiv:2207.08799; 3 of 43 bits and 1000 + 1000 strings as in Prieto et al., 2025,
        arXiv:2501.04697.

    Example:
        >>> data = SparseParity(parity_bits=2, noise_bits=3, train_samples=16, test_samples=16)
        >>> data.setup()
        >>> data.train["inputs"].shape
        torch.Size([16, 5])
    """

    name = "sparse_parity"
    num_classes = 2

    parity_bits: Count = 3
    noise_bits: Annotated[int, Bound(least=0)] = 40
    train_samples: Count = 1000
    test_samples: Count = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.num_features = self.parity_bits + self.noise_bits
        check_number(self.name, "parity_bits + noise_bits", self.num_features, most=62)
        if self.train_samples + self.test_samples > 2**self.num_features:
            raise ValueError(
                f"{self.name}: {self.train_samples + self.test_samples} different strings of {self.num_features} bits "
                f"were asked for; there are {2**self.num_features}."
            )

    def make(self) -> tuple[Batch, Batch]:
        """Draw different strings, and split them."""
        generator = self.generator()
        samples, strings = self.train_samples + self.test_samples, 2**self.num_features
        if strings <= 4 * samples:
            codes = torch.randperm(strings, generator=generator)[:samples]
        else:
            codes = torch.empty(0, dtype=torch.int64)
            while len(codes) < samples:
                drawn = torch.randint(strings, (2 * samples,), generator=generator)
                # `unique` sorts, so the kept ones are drawn at random again.
                codes = torch.unique(torch.cat([codes, drawn]))
                codes = codes[torch.randperm(len(codes), generator=generator)][:samples]
        bits = codes.unsqueeze(1) >> torch.arange(self.num_features) & 1
        target = bits[:, : self.parity_bits].sum(dim=1) % 2
        return random_split(bits.float(), target, self.train_samples, generator)
