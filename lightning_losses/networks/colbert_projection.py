"""Projections of token states to the small vectors that MaxSim compares."""

from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_choice, check_count
from lightning_losses.numerics.distances import unit_rows

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class ColBERTProjection(nn.Module):
    """Maps the state of each token to a vector of length 1, linearly or by a small network.

    With `depth` 0 it is ``W x``, without a bias, as ColBERT has it. Each step of depth puts a hidden layer before it,
    ``act(W_1 x)``, or where `gated` ``(W_1 x) * act(W_2 x)``, `widening` times as wide as the states. With `residual` a
    linear map of x, without a bias, is added; so a last layer of zeros is the linear projection.

    Args:
        in_features: D, the width of the states.
        dim: the width of the vectors.
        depth: the number of hidden layers, 0, 1 or 2.
        widening: their width over D.
        gated: whether hidden layers are gated.
        residual: whether the linear map is added; None does so from a depth of 2 on.
        activation: "relu", "gelu" or "silu".

    Shapes:
        [..., D] states, [..., dim] vectors.

    Raises:
        ValueError: sizes below 1; a depth or an activation that there isn't.

    Source:
        Khattab, Zaharia, 2020, "ColBERT", arXiv:2004.12832, for the linear one; the others after Clavié, Lee, Takehi,
        Shakir, Kato, 2025, "Simple Projection Variants Improve ColBERT Performance", arXiv:2510.12327, by its abstract.

    Example:
        >>> projection = ColBERTProjection(8, dim=4, depth=2)
        >>> vectors = projection(torch.randn(2, 5, 8))
        >>> vectors.shape, bool((vectors.norm(dim=-1) - 1).abs().max() < 1e-5)
        (torch.Size([2, 5, 4]), True)
    """

    def __init__(
        self,
        in_features: int,
        dim: int = 128,
        depth: int = 0,
        widening: int = 2,
        gated: bool = False,
        residual: bool | None = None,
        activation: Literal["relu", "gelu", "silu"] = "gelu",
    ) -> None:
        super().__init__()
        for name, size in {"in_features": in_features, "dim": dim, "widening": widening}.items():
            check_count("colbert_projection", name, size)
        check_choice("colbert_projection", "depth", depth, (0, 1, 2))
        check_choice("colbert_projection", "activation", activation, tuple(_ACTIVATIONS))
        wide = widening * in_features
        widths = [in_features, *[wide] * depth]
        make = _ACTIVATIONS[activation]
        hidden = [
            _Gated(before, after, make()) if gated else nn.Sequential(nn.Linear(before, after), make())
            for before, after in pairwise(widths)
        ]
        self.hidden = nn.Sequential(*hidden)
        self.last = nn.Linear(widths[-1], dim, bias=depth > 0)
        added = depth >= 2 if residual is None else residual
        self.residual = nn.Linear(in_features, dim, bias=False) if added else None

    def forward(self, states: Float[Tensor, "*tokens in_features"]) -> Float[Tensor, "*tokens dim"]:
        """The vectors."""
        vectors: Tensor = self.last(self.hidden(states))
        return unit_rows(vectors if self.residual is None else vectors + self.residual(states))


class _Gated(nn.Module):
    """``(W_1 x) * act(W_2 x)``."""

    def __init__(self, before: int, after: int, activation: nn.Module) -> None:
        super().__init__()
        self.value, self.gate, self.activation = nn.Linear(before, after), nn.Linear(before, after), activation

    def forward(self, states: Tensor) -> Tensor:
        gated: Tensor = self.value(states) * self.activation(self.gate(states))
        return gated
