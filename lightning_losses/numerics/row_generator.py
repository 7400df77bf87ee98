"""Random numbers of rows: from a generator, or of each row by itself."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_tensor
from lightning_losses.numerics.counter_random import row_normals, row_uniforms


class RowGenerator:
    """Draws the numbers of each row by its own key: other rows, their order and the process don't matter.

    Give it to an attack in the place of a `torch.Generator`, and each sample is attacked from the same start in any
    batch and on any number of processes. Further draws give other numbers; they are the same on every device.

    Args:
        seed: of all numbers, at least 0.
        keys: [rows] whole numbers, such as positions in a data set; the rows of each draw have these keys.

    Raises:
        ValueError: a seed below 0; keys that are no whole numbers of rows.

    Example:
        >>> zeros = torch.zeros(2, 3)
        >>> one, other = (RowGenerator(0, torch.tensor(keys)).uniform(zeros) for keys in ([5, 7], [7, 9]))
        >>> torch.equal(one[1], other[0]), torch.equal(one[0], one[1])
        (True, False)
    """

    def __init__(self, seed: int, keys: Int[Tensor, " rows"]) -> None:
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"RowGenerator: seed={seed!r} came; give a whole number of at least 0.")
        check_tensor("RowGenerator", "keys", keys)
        if keys.ndim != 1 or keys.dtype.is_floating_point or keys.dtype.is_complex or keys.dtype == torch.bool:
            raise ValueError(
                f"RowGenerator: keys of shape {list(keys.shape)} and dtype {keys.dtype} came; give a whole number for "
                "each row."
            )
        self.seed, self.keys, self.draws = seed, keys, 0

    def uniform(self, like: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows ..."]:
        """Numbers uniform in (0, 1), of the shape of other rows."""
        return row_uniforms(like, self._next(), self.keys.to(like.device))

    def normal(self, like: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows ..."]:
        """Standard normal numbers, of the shape of other rows."""
        return row_normals(like, self._next(), self.keys.to(like.device))

    def _next(self) -> int:
        self.draws += 1
        return self.seed * 65_537 + self.draws


Randomness = torch.Generator | RowGenerator


def uniform(like: Float[Tensor, "rows ..."], generator: Randomness) -> Float[Tensor, "rows ..."]:
    """Numbers uniform between 0 and 1; a generator draws them on its own device.

    Example:
        >>> uniform(torch.zeros(2, 3), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    if isinstance(generator, RowGenerator):
        return generator.uniform(like)
    drawn = torch.rand(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return drawn.to(like.device)


def normal(like: Float[Tensor, "rows ..."], generator: Randomness) -> Float[Tensor, "rows ..."]:
    """Standard normal numbers; a generator draws them on its own device.

    Example:
        >>> normal(torch.zeros(2, 3), RowGenerator(0, torch.tensor([4, 5]))).shape
        torch.Size([2, 3])
    """
    if isinstance(generator, RowGenerator):
        return generator.normal(like)
    drawn = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return drawn.to(like.device)
