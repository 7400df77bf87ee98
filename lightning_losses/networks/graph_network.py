"""A graph convolutional network of two layers, and bounds of its embeddings where edges are dropped."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_count, check_floating, check_number
from lightning_losses.numerics.distances import unit_rows


class Between(NamedTuple):
    """Numbers that each lie between two bounds."""

    low: Float[Tensor, "..."]
    high: Float[Tensor, "..."]


class GraphNetwork(nn.Module):
    """Two graph convolutions with dense adjacency, for graphs of up to a few thousand nodes.

    ``Z = φ(Â φ(Â X W₁ + b₁) W₂ + b₂)``, with ``Â`` of `normalised_adjacency` and φ a leaky ReLU.

    Args:
        num_features: the width of the nodes' inputs, at least 1.
        hidden: of the first layer, at least 1.
        num_embeddings: D, at least 1.
        slope: of φ below 0, from 0 (ReLU) to 1.

    Shapes:
        inputs: [B, features]; adjacency: [B, B], at least 0, symmetric; returns [B, D].

    Source:
        Kipf, Welling, 2016, "Semi-Supervised Classification with Graph Convolutional Networks", arXiv:1609.02907.

    Example:
        >>> GraphNetwork(3, 8, 4)(torch.ones(5, 3), torch.zeros(5, 5)).shape
        torch.Size([5, 4])
    """

    def __init__(self, num_features: int, hidden: int, num_embeddings: int, slope: float = 0.0) -> None:
        super().__init__()
        for name, value in (("num_features", num_features), ("hidden", hidden), ("num_embeddings", num_embeddings)):
            check_count("graph_network", name, value)
        check_number("graph_network", "slope", slope, least=0, most=1)
        self.first, self.second = nn.Linear(num_features, hidden), nn.Linear(hidden, num_embeddings)
        self.slope = slope

    def forward(
        self, inputs: Float[Tensor, "nodes features"], adjacency: Float[Tensor, "nodes nodes"]
    ) -> Float[Tensor, "nodes dim"]:
        """The nodes' embeddings."""
        near = normalised_adjacency(adjacency)
        hidden = F.leaky_relu(near @ F.linear(inputs, self.first.weight) + self.first.bias, self.slope)
        return F.leaky_relu(near @ F.linear(hidden, self.second.weight) + self.second.bias, self.slope)

    def compactness(
        self,
        inputs: Float[Tensor, "nodes features"],
        adjacency: Float[Tensor, "nodes nodes"],
        view: Float[Tensor, "nodes nodes"],
        other: Float[Tensor, "nodes dim"],
        drops: float = 0.5,
    ) -> Float[Tensor, " nodes"]:
        """How much nearer each node is to its own second view than to other nodes', bounded from below over edge drops.

        ``s_i <= z_i · (o_i - mean_{j != i} o_j)`` with z the embeddings of the view and o those of the other, scaled to
        length 1: φ is replaced by lines that bound it for every graph that drops up to a share of each node's edges.

        Args:
            inputs: of the nodes.
            adjacency: of the whole graph, 0 and 1.
            view: of the graph with dropped edges in which the bound is taken.
            other: embeddings of a second view.
            drops: the share of a node's edges that may be missing, from 0 to 1; one always stays.

        Returns:
            A number a node, for `NodeCompactness`.

        Raises:
            ValueError: fewer than two nodes; a share out of range.

        Source:
            Yu, Wang, Zhang, Liu, Shi, 2023, "Provable Training for Graph Contrastive Learning", arXiv:2309.13944, and
            its code VoidHaruhi/POT-GCL, which bounds the second layer by the first one's output without drops, and
            takes each neighbour's lines for its own score in place of the node's: no bound of the node's embedding.
            This follows the bounds through both layers.
        """
        if len(inputs) < 2:
            raise ValueError(f"graph_network: {len(inputs)} nodes came; give at least two.")
        edges, near = adjacency_bounds(adjacency, drops), normalised_adjacency(view)
        first, second = self.first.bias, self.second.bias
        projected = F.linear(inputs, self.first.weight)
        bounds = _shifted(_aggregated(edges, Between(projected, projected)), first)
        hidden = Between(*(F.leaky_relu(end, self.slope) for end in bounds))
        middle, radius = (hidden.high + hidden.low) / 2, (hidden.high - hidden.low) / 2
        centre, spread = F.linear(middle, self.second.weight), F.linear(radius, self.second.weight.abs())
        deeper = _shifted(_aggregated(edges, Between(centre - spread, centre + spread)), second)

        nodes = unit_rows(other)
        apart = (len(nodes) * nodes - nodes.sum(dim=0)) / (len(nodes) - 1)
        # Where the weight is below 0, the upper line bounds the product from below.
        slopes, offsets = self._lines(deeper)
        weight = slopes * apart
        score = (weight * (second + offsets * (apart < 0))).sum(dim=1)
        passed = weight @ self.second.weight
        slopes, offsets = self._lines(bounds)
        values = near @ projected + first
        lower, upper = near @ (slopes * values), near @ (slopes * (values + offsets))
        return score + (passed.clamp(min=0) * lower + passed.clamp(max=0) * upper).sum(dim=1)

    def _lines(self, bounds: Between) -> tuple[Tensor, Tensor]:
        """Slope and offset c of the lines ``k z`` below φ and ``k (z + c)`` above it, between bounds of z."""
        low, high = bounds
        crossing = (low < 0) & (high > 0)
        width, rise = (high - low).masked_fill(~crossing, 1.0), (high - self.slope * low).masked_fill(~crossing, 1.0)
        straight = self.slope + (1 - self.slope) * (low >= 0).to(low)
        offset = (self.slope - 1) * high * low / rise
        return torch.where(crossing, rise / width, straight), offset.masked_fill(~crossing, 0.0)


def normalised_adjacency(adjacency: Float[Tensor, "nodes nodes"]) -> Float[Tensor, "nodes nodes"]:
    """``D^-1/2 (A + I) D^-1/2`` with the degrees D of A + I.

    Example:
        >>> normalised_adjacency(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    check_floating("normalised_adjacency", "adjacency", adjacency)
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
        raise ValueError(
            f"normalised_adjacency: adjacency of shape {list(adjacency.shape)} came; give a row and a column a node."
        )
    own = adjacency + torch.eye(len(adjacency), dtype=adjacency.dtype, device=adjacency.device)
    root = own.sum(dim=1).rsqrt()
    return own * root.unsqueeze(1) * root


def adjacency_bounds(adjacency: Float[Tensor, "nodes nodes"], drops: float) -> Between:
    """Bounds of each entry of the normalised adjacency, where each node lacks up to a share of its edges.

    Args:
        adjacency: 0 and 1, symmetric, 0 on the diagonal.
        drops: from 0 to 1; a node with edges keeps at least one.

    Example:
        >>> low, high = adjacency_bounds(torch.ones(3, 3) - torch.eye(3), 0.5)
        >>> low[0, 1].item(), round(high[0, 1].item(), 4)
        (0.0, 0.5)
    """
    check_number("adjacency_bounds", "drops", drops, least=0, most=1)
    full = normalised_adjacency(adjacency)
    degree = adjacency.sum(dim=1)
    missing = torch.minimum((degree * drops).round(), (degree - 1).clamp(min=0))
    root = (degree + 1 - missing).rsqrt()
    high = (full > 0) * root.unsqueeze(1) * root
    # An edge that neither end may lack stays, at most as heavy as before.
    stays = (missing.unsqueeze(1) + missing == 0) | torch.eye(len(full), dtype=torch.bool, device=full.device)
    return Between(full * stays, high)


def _aggregated(edges: Between, values: Between) -> Between:
    """What neighbours' values add up to, with weights of at least 0 between bounds."""
    return Between(
        edges.low @ values.low.clamp(min=0) + edges.high @ values.low.clamp(max=0),
        edges.high @ values.high.clamp(min=0) + edges.low @ values.high.clamp(max=0),
    )


def _shifted(bounds: Between, bias: Tensor) -> Between:
    return Between(bounds.low + bias, bounds.high + bias)
