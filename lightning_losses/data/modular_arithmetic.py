"""Modular arithmetic: a op b mod p, with a part of the table for training."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from lightning_losses.data.loading import Batch
from lightning_losses.data.resident import ResidentData, random_split
from lightning_losses.numerics.settings import Bound
from lightning_losses.numerics.shares import share_of

Operation = Literal["add", "subtract", "multiply", "divide"]
Encoding = Literal["one_hot", "tokens"]


def operation_table(prime: int, operation: Operation) -> tuple[Int[Tensor, "pairs 2"], Int[Tensor, " pairs"]]:
    """Every ordered pair (a, b) and ``a op b mod p``; division multiplies by the inverse and omits b = 0.

    Example:
        >>> pairs, target = operation_table(5, "divide")
        >>> [(a, b, int(c)) for (a, b), c in zip(pairs.tolist(), target) if (a, b) == (3, 2)]
        [(3, 2, 4)]
    """
    pairs = torch.cartesian_prod(torch.arange(prime), torch.arange(prime))
    if operation == "divide":
        pairs = pairs[pairs[:, 1] != 0]
    a, b = pairs.unbind(dim=1)
    if operation == "add":
        return pairs, (a + b) % prime
    if operation == "subtract":
        return pairs, (a - b) % prime
    if operation == "multiply":
        return pairs, a * b % prime
    inverses = torch.tensor([0] + [pow(value, -1, prime) for value in range(1, prime)])
    return pairs, a * inverses[b] % prime


class ModularArithmetic(ResidentData):
    """The table of a op b mod p: a network that learns the rule, not only the entries, completes it.

    Inputs are two concatenated one-hot vectors, or the two numbers as tokens; the target is the result.

    Args:
        prime: p.
        operation: "add", "subtract", "multiply", or "divide" (a times the inverse of b; b is never 0).
        train_fraction: the share of the table for training, in (0, 1).
        encoding: "one_hot" gives [n, 2p] floats, "tokens" [n, 2] int64.
        seed: seed of the split.
        steps_per_epoch: see `ResidentData`.

    Raises:
        ValueError: p not a prime; a fraction that leaves a split empty; an unknown operation or encoding.

    Source:
        Power, Burda, Edwards, Babuschkin, Misra, 2022, "Grokking: Generalization Beyond Overfitting on Small
        Algorithmic Datasets", arXiv:2201.02177; p = 113 and 40% as in Prieto et al., 2025, arXiv:2501.04697, whose code
        uses integer division instead of the modular inverse.

    Example:
        >>> data = ModularArithmetic(prime=7, train_fraction=0.5)
        >>> data.setup()
        >>> len(data.train["target"]), len(data.test["target"])
        (24, 25)
    """

    name = "modular_arithmetic"

    prime: int = 113
    operation: Operation = "add"
    train_fraction: Annotated[float, Bound(above=0, most=1)] = 0.4
    encoding: Encoding = "one_hot"

    def __post_init__(self) -> None:
        super().__post_init__()
        prime = self.prime
        if prime < 2 or any(prime % divisor == 0 for divisor in range(2, int(prime**0.5) + 1)):
            raise ValueError(f"{self.name}: prime={prime} came, which is not a prime; give one, such as 97 or 113.")
        self.num_classes = prime
        self.num_features = 2 * prime if self.encoding == "one_hot" else 2
        rows = prime * (prime - 1 if self.operation == "divide" else prime)
        self.train_samples = share_of(self.train_fraction, rows)
        if not 0 < self.train_samples < rows:
            raise ValueError(
                f"{self.name}: train_fraction={self.train_fraction} of {rows} rows leaves a split empty; give another."
            )

    def make(self) -> tuple[Batch, Batch]:
        """Split the table."""
        pairs, target = operation_table(self.prime, self.operation)
        inputs = F.one_hot(pairs, self.prime).flatten(1).float() if self.encoding == "one_hot" else pairs
        return random_split(inputs, target, self.train_samples, self.generator())
