"""Two views of a batch, checked and scaled to length 1."""

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.numerics.checks import check_embeddings
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.vectors import alike_vectors

Unit = tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"], Float[Tensor, "negatives dim"] | None]


def unit_views(
    loss: str, embeddings: Any, embeddings_b: Any, queue: Any = None, kept: Bool[Tensor, " batch"] | None = None
) -> Unit:
    """Both views and the queue, in full precision, each vector of length 1; the queue has no gradient.

    Vectors of samples that are not kept are 0, whatever they were.

    Raises:
        ValueError: no vectors [B, D]; views of different shapes; a queue of another width.
    """
    a, b = alike_vectors(loss, embeddings=embeddings, embeddings_b=embeddings_b)
    if kept is not None:
        a, b = (view.masked_fill(~kept.unsqueeze(-1), 0.0) for view in (a, b))
    negatives = None
    if queue is not None:
        check_embeddings(loss, "queue", queue)
        if queue.shape[1] != a.shape[1]:
            raise ValueError(
                f"{loss}: a queue of shape {list(queue.shape)} came with embeddings of shape {list(a.shape)}; give "
                "[Q, D] of the same D."
            )
        if len(queue):
            negatives = unit_rows(full_precision(queue.detach())).to(a.dtype)
    return unit_rows(a), unit_rows(b), negatives
