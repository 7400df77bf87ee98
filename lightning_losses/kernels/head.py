"""A classifier head that the chunked losses process in tiles of its vocabulary."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.terms import Terms, statistics_dtype
from lightning_losses.numerics.products import product, spans, working_dtype


def tile_width(dtype: torch.dtype, beside_teacher: bool = False, threads: int = 1) -> int:
    """Vocabulary entries scored at once on a CPU.

    The scores of one tile for a chunk of tokens stay in the cache between two passes. In float32 the products' own
    copies grow with the tile, which matters less if a teacher's scores are held too. In bfloat16 these copies are small
    and wider tiles are faster. Several threads need wider tiles, because they wait for each other after every pass.
    """
    width = 2048 if dtype == torch.bfloat16 else 1024 if beside_teacher else 512
    return width if threads == 1 else min(2 * threads * width, 16384)


class Head:
    """A classifier head, or one process's rows of it.

    Attributes:
        dtype: of its products.
        statistics: the dtype of logsumexps and losses.
        tiles: slices of its vocabulary that fit the cache of a CPU; one slice on other devices.
        smoothing_weight: [V] the terms' smoothing weight; ones if they have none.
    """

    def __init__(
        self,
        weight: Float[Tensor, "vocabulary width"],
        bias: Float[Tensor, " vocabulary"] | None,
        terms: Terms,
        start: int = 0,
        beside_teacher: bool = False,
    ) -> None:
        self.weight, self.bias, self.terms = weight, bias, terms
        self.dtype, self.statistics = working_dtype(weight), statistics_dtype(weight)
        self.on_cpu = weight.device.type == "cpu"
        width = tile_width(self.dtype, beside_teacher, torch.get_num_threads()) if self.on_cpu else len(weight)
        self.tiles = list(spans(len(weight), max(width, 1)))
        ones = weight.new_ones(len(weight), dtype=self.statistics)
        # The terms know the whole vocabulary; this may be its part that begins at `start`.
        of_all = terms.smoothing_weight()
        self.smoothing_weight = ones if of_all is None else of_all[start:][: len(weight)].to(ones)

    def rows(self, entries: slice | Tensor) -> Float[Tensor, "entries width"]:
        """Some entries' rows of the weight, in the dtype of the products."""
        return self.weight[entries].to(self.dtype)

    def scores(
        self,
        hidden: Float[Tensor, "rows width"],
        entries: slice | Tensor,
        full: bool = False,
        out: Float[Tensor, "rows entries"] | None = None,
    ) -> tuple[Float[Tensor, "rows entries"], Float[Tensor, "rows entries"] | None]:
        """The (softcapped) scores of some entries, over the temperature, to be overwritten, and the softcap's slope.

        Args:
            hidden: rows in the dtype of the products.
            entries: which vocabulary entries.
            full: raise half-precision scores to float32.
            out: memory for the scores; used if the product can write there and they are not raised.
        """
        scores = product(hidden, self.rows(entries), out)
        if full:
            scores = scores.to(self.statistics)
        if self.bias is not None:
            scores.add_(self.bias[entries])
        cap, temperature = self.terms.softcap, self.terms.temperature
        if cap is None:
            return scores if temperature == 1.0 else scores.div_(temperature), None
        scores.div_(cap).tanh_()
        slope = 1 - scores * scores
        return scores.mul_(cap / temperature), slope

    def mean_row(self) -> tuple[Float[Tensor, " width"], float | Float[Tensor, ""]]:
        """The sums over the vocabulary of weight rows and of biases, each times its smoothing weight over τ."""
        total = self.weight.new_zeros(self.weight.shape[1], dtype=self.statistics)
        of_class = self.smoothing_weight / self.terms.temperature
        for tile in self.tiles:
            total += of_class[tile] @ self.weight[tile].to(self.statistics)
        return total, 0.0 if self.bias is None else of_class @ self.weighing(self.bias.to(self.statistics))

    def weighing(
        self, scores: Float[Tensor, "*rows entries"], entries: slice = slice(None)
    ) -> Float[Tensor, "*rows entries"]:
        """The scores, or biases, with 0 for masked classes: 0 times -inf is not a number."""
        return scores if self.terms.unmasked is None else torch.where(self.smoothing_weight[entries] == 0, 0.0, scores)


def locate(target: Int[Tensor, " rows"], tiles: list[slice]) -> list[tuple[Tensor, Tensor]]:
    """For each tile of the vocabulary, the rows whose target lies in it, and the columns where."""
    ordered, order = torch.sort(target)
    edges = torch.tensor([tile.start for tile in tiles] + [tiles[-1].stop], device=target.device)
    bounds = torch.searchsorted(ordered, edges).tolist()
    return [
        (order[low:high], ordered[low:high] - tile.start)
        for tile, low, high in zip(tiles, bounds, bounds[1:], strict=False)
    ]
