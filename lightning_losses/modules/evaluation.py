"""What the ready modules measure of a batch in validation and test: of its kept samples alone."""

from collections.abc import Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.objective import Objective, Term


class Evaluation(NamedTuple):
    """Cross-entropy and accuracy of the kept samples, 0 where there are none.

    Attributes:
        loss: [] cross-entropy in nats.
        accuracy: [] the share of right predictions.
        kept: which samples have a target.
        samples: how many these are: what the batch weighs in a mean over batches.
    """

    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]
    kept: Bool[Tensor, "*rows"]
    samples: int


@torch.no_grad()
def evaluate(
    logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."], ignored: Collection[int] = (-100,)
) -> Evaluation:
    """Cross-entropy and accuracy of a batch.

    Args:
        logits: [..., C].
        target: [...] class indices, or [..., C] probabilities, which are all kept.
        ignored: targets of the samples that count for nothing.

    Example:
        >>> found = evaluate(torch.tensor([[9.0, -9.0], [0.0, 0.0]]), torch.tensor([0, -100]))
        >>> found.accuracy.item(), found.samples
        (1.0, 1)
    """
    scores = logits.float().reshape(-1, logits.shape[-1])
    if target.is_floating_point():
        chosen, kept = target.reshape(scores.shape), torch.ones_like(target[..., 0], dtype=torch.bool)
        label = chosen.argmax(dim=-1)
    else:
        kept = torch.stack([target != index for index in ignored]).all(dim=0)
        label = chosen = target.masked_fill(~kept, -100).reshape(-1)
    samples = int(kept.sum())
    loss = F.cross_entropy(scores, chosen, ignore_index=-100, reduction="sum") / max(samples, 1)
    # No class is -100.
    return Evaluation(loss, (scores.argmax(dim=-1) == label).sum() / max(samples, 1), kept, samples)


def ignored_targets(objective: Objective) -> set[int]:
    """The targets that the terms of an objective ignore; -100 where none says."""
    losses = [term.loss for term in objective.terms.values() if isinstance(term, Term)]
    return {index for loss in losses if (index := getattr(loss, "ignore_index", None)) is not None} or {-100}
