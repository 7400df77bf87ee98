"""The metrics of the ready modules in validation and test, over the kept samples of a batch."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.rows import class_indices, labelled_rows


class Evaluation(NamedTuple):
    """Cross-entropy and accuracy of the kept samples; 0 if there are none.

    Attributes:
        loss: [] cross-entropy in nats.
        accuracy: [] the share of right predictions.
        kept: which samples have a target.
        label: the kept samples' classes; for probabilities the likeliest.
        samples: the number of kept samples: the weight of the batch in a mean over batches.
    """

    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]
    kept: Bool[Tensor, "*rows"]
    label: Int[Tensor, " kept"]
    samples: int


@torch.no_grad()
def evaluate(logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."], *ignored: int) -> Evaluation:
    """Cross-entropy and accuracy of a batch.

    Args:
        logits: [..., C].
        target: [...] class indices, or [..., C] probabilities; a sample whose probabilities are all 0 is not kept.
        *ignored: targets of ignored samples; -100 if none is given.

    Example:
        >>> measured = evaluate(torch.tensor([[9.0, -9.0], [0.0, 0.0]]), torch.tensor([0, -100]))
        >>> measured.accuracy.item(), measured.samples
        (1.0, 1)
    """
    kept = labelled_rows(target, *ignored)
    scores, chosen = full_precision(logits)[kept], target[kept]
    label = class_indices(chosen)
    samples = len(label)
    chosen = chosen.to(scores) if target.is_floating_point() else chosen
    loss = cross_entropy(log_probabilities(scores), chosen).sum()
    return Evaluation(
        loss / max(samples, 1), (scores.argmax(dim=-1) == label).sum() / max(samples, 1), kept, label, samples
    )
