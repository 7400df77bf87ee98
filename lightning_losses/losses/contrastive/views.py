"""Two views of a batch, checked and scaled to length 1."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_embeddings
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision

Unit = tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"], Float[Tensor, "negatives dim"] | None]


def check_views(loss: str, embeddings: Any, embeddings_b: Any) -> None:
    """Raise ``ValueError`` unless both are vectors [B, D] of one shape."""
    for name, tensor in (("embeddings", embeddings), ("embeddings_b", embeddings_b)):
        check_embeddings(loss, name, tensor)
    if embeddings.shape != embeddings_b.shape:
        raise ValueError(
            f"{loss}: embeddings of shape {list(embeddings.shape)} came with embeddings_b of shape "
            f"{list(embeddings_b.shape)}; give two views [B, D] of the same samples."
        )


def unit_views(loss: str, embeddings: Any, embeddings_b: Any, queue: Any = None) -> Unit:
    """Both views and the queue, in full precision, each vector of length 1; the queue has no gradient.

    Raises:
        ValueError: no vectors [B, D]; views of different shapes; a queue of another width.
    """
    check_views(loss, embeddings, embeddings_b)
    if queue is not None:
        check_embeddings(loss, "queue", queue)
        if queue.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"{loss}: a queue of shape {list(queue.shape)} came with embeddings of shape "
                f"{list(embeddings.shape)}; give [Q, D] of the same D."
            )
    a, b = unit_rows(full_precision(embeddings)), unit_rows(full_precision(embeddings_b))
    return a, b.to(a.dtype), None if queue is None else unit_rows(full_precision(queue.detach())).to(a.dtype)
