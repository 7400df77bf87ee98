"""Linear embeddings of features, for losses that compare student and teacher in a space of their own."""

from jaxtyping import Float
from torch import Tensor, nn


def linear_embedding(width: int | None, dim: int) -> nn.Linear:
    """A linear layer to `dim` numbers; if its input width is None, the first batch sets it."""
    return nn.LazyLinear(dim) if width is None else nn.Linear(width, dim)


def embedded(
    loss: str, name: str, vectors: Float[Tensor, "batch width"], layer: nn.Linear
) -> Float[Tensor, "batch dim"]:
    """Vectors mapped by their layer, in the layer's precision.

    Raises:
        ValueError: vectors whose width is not the layer's.
    """
    # A layer that has not seen a batch has no width yet.
    if layer.in_features not in (0, vectors.shape[-1]):
        raise ValueError(
            f"{loss}: {name} of shape {list(vectors.shape)} came for a layer that takes {layer.in_features} numbers; "
            f"give [B, {layer.in_features}], or make the loss for {vectors.shape[-1]}."
        )
    result: Tensor = layer(vectors.to(layer.weight.dtype))
    return result
