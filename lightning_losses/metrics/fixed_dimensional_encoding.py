"""One vector for a set of token vectors, whose dot products approximate MaxSim."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.numerics.maxsim import check_token_sets


class FixedDimensionalEncoding:
    """One vector for each set of token vectors, so that a dot product of two approximates their MaxSim.

    In each repetition random hyperplanes cut the space into cells. A set's vector holds, cell by cell, for a query the
    sum of its tokens in the cell, and for a document their mean; an empty cell of a document takes the token
    whose signs differ least from the cell's, the first among equals. So thousands of documents are searched by one
    matrix product, and MaxSim is left for the best of them. The hyperplanes, signs and buckets are drawn from the seed;
    queries and documents need encodings of equal settings.

    Args:
        dim: D, the width of the tokens.
        repetitions: R, at least 1; the dot product is near R times the MaxSim.
        planes: s, at least 0, for 2^s cells.
        projection: the width that tokens are projected to by random signs, one for each of the D numbers; None keeps
            them.
        final: the width that the whole vector is sketched to, by a random bucket and sign for each number; None keeps
            it.
        seed: of everything that is drawn.

    Attributes:
        width: of the vectors.

    Raises:
        ValueError: numbers out of their range; shapes that do not fit.

    Source:
        Dhulipala, Hadian, Jayaram, Lee, Mirrokni, 2024, "MUVERA: Multi-Vector Retrieval via Fixed Dimensional
        Encodings", arXiv:2405.19504; details as in google/graph-mining, whose random numbers are others.

    Example:
        >>> encoding = FixedDimensionalEncoding(dim=2, repetitions=1, planes=0)
        >>> query, document = torch.eye(2).unsqueeze(0), torch.tensor([[[0.5, 0.5], [1.5, 0.5]]])
        >>> encoding.queries(query), encoding.documents(document)
        (tensor([[1., 1.]]), tensor([[1.0000, 0.5000]]))
    """

    def __init__(
        self,
        dim: int,
        repetitions: int = 10,
        planes: int = 4,
        projection: int | None = None,
        final: int | None = None,
        seed: int = 0,
    ) -> None:
        who = "fixed_dimensional_encoding"
        sizes = {"dim": dim, "repetitions": repetitions, "projection": projection, "final": final}
        for name, size in sizes.items():
            if size is not None:
                check_count(who, name, size)
        check_count(who, "planes", planes, zero="for one cell")
        check_number(who, "planes", planes, most=20)
        self.dim, self.repetitions, self.planes, self.final = dim, repetitions, planes, final
        generator = torch.Generator().manual_seed(seed)
        self._normals = torch.randn(repetitions, planes, dim, generator=generator)
        self._projections: Tensor | None = None
        inner = dim
        if projection is not None:
            inner = projection
            chosen = torch.randint(projection, (repetitions, dim, 1), generator=generator)
            signs = 2.0 * torch.randint(2, (repetitions, dim, 1), generator=generator) - 1
            self._projections = torch.zeros(repetitions, dim, projection).scatter(2, chosen, signs)
        whole = repetitions * 2**planes * inner
        self.width = whole if final is None else final
        if final is not None:
            self._buckets = torch.randint(final, (whole,), generator=generator)
            self._signs = 2.0 * torch.randint(2, (whole,), generator=generator) - 1

    @torch.no_grad()
    def queries(
        self, tokens: Float[Tensor, "sets tokens dim"], mask: Shaped[Tensor, "sets tokens"] | None = None
    ) -> Float[Tensor, "sets width"]:
        """The vectors of queries, of which `mask` says what is a token."""
        return self._encoded(tokens, mask, of_documents=False)

    @torch.no_grad()
    def documents(
        self, tokens: Float[Tensor, "sets tokens dim"], mask: Shaped[Tensor, "sets tokens"] | None = None
    ) -> Float[Tensor, "sets width"]:
        """The vectors of documents, of which `mask` says what is a token; zeros for one without a token."""
        return self._encoded(tokens, mask, of_documents=True)

    def _encoded(self, tokens: Tensor, mask: Tensor | None, *, of_documents: bool) -> Tensor:
        check_token_sets("fixed_dimensional_encoding", tokens=tokens, mask=mask)
        if tokens.shape[-1] != self.dim:
            raise ValueError(
                f"fixed_dimensional_encoding: tokens of {tokens.shape[-1]} dimensions came for an encoding of "
                f"{self.dim}; make one for them."
            )
        there = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask != 0
        tokens = tokens.masked_fill(~there.unsqueeze(-1), 0.0)
        parts = [self._repetition(tokens, there, number, of_documents) for number in range(self.repetitions)]
        whole = torch.cat(parts, dim=-1)
        if self.final is None:
            return whole
        sketch = whole.new_zeros(len(whole), self.final)
        return sketch.index_add(1, self._buckets.to(whole.device), whole * self._signs.to(whole))

    def _repetition(self, tokens: Tensor, there: Tensor, number: int, of_documents: bool) -> Tensor:
        """The cells of one repetition, one after another."""
        bits = (tokens @ self._normals[number].to(tokens).mT > 0).long()
        values = tokens if self._projections is None else tokens @ self._projections[number].to(tokens)
        cells = 2**self.planes
        cell = (bits << torch.arange(self.planes, device=tokens.device)).sum(dim=-1)
        members = torch.nn.functional.one_hot(cell, cells).mT * there.unsqueeze(1)
        total = members.to(values) @ values
        if of_documents:
            counts = members.sum(dim=-1, keepdim=True)
            total = total / counts.clamp(min=1)
            nearest = values.gather(1, self._nearest(bits, there).unsqueeze(-1).expand(-1, -1, values.shape[-1]))
            total = torch.where(counts == 0, nearest, total)
        return total.flatten(1)

    def _nearest(self, bits: Int[Tensor, "sets tokens planes"], there: Tensor) -> Int[Tensor, "sets cells"]:
        """The token whose signs differ least from each cell's."""
        numbers = torch.arange(2**self.planes, device=bits.device).unsqueeze(1)
        patterns = (numbers >> torch.arange(self.planes, device=bits.device)) & 1
        apart = (bits.unsqueeze(1) != patterns.unsqueeze(1)).sum(dim=-1)
        # Padding is further than any token; argmin takes the first of equals.
        return apart.masked_fill(~there.unsqueeze(1), self.planes + 1).argmin(dim=-1)
