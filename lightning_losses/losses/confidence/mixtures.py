"""What losses of mixtures share: each sample together with its mixtures."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import index_rows
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.rows import check_probabilities


class MixtureRows(NamedTuple):
    """Samples, and the logits and labels of their Q mixtures; zeros where the sample is ignored."""

    logits: Float[Tensor, "*rows classes"]
    mixtures: Float[Tensor, "blocks *rows classes"]
    purity: Float[Tensor, "blocks *rows classes"]
    kept: Bool[Tensor, "*rows"] | None


def mixture_rows(
    loss: str,
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    mixup_logits: Float[Tensor, "*mixtures classes"],
    mixup_target: Float[Tensor, "*mixtures classes"],
    ignore_index: int,
) -> MixtureRows:
    """Check samples and their mixtures, and put the mixtures in blocks of the batch.

    Raises:
        ValueError: as `index_rows`; mixtures whose shape is not that of their labels, or whose number is no multiple of
            the batch.
    """
    rows = index_rows(loss, logits, target, ignore_index)
    for name, tensor in (("mixup_logits", mixup_logits), ("mixup_target", mixup_target)):
        check_floating(loss, name, tensor)
    count, classes = rows.target.numel(), logits.shape[-1]
    mixed = mixup_logits.numel() // classes
    whole = mixed == 0 if count == 0 else mixed % count == 0 and mixed > 0
    if mixup_logits.shape != mixup_target.shape or mixup_logits.shape[-1] != classes or not whole:
        raise ValueError(
            f"{loss}: mixup_logits of shape {list(mixup_logits.shape)} and mixup_target of shape "
            f"{list(mixup_target.shape)} came with logits of shape {list(logits.shape)}; give Q blocks of "
            "the batch, [Q B, C] each."
        )
    blocks = mixed // count if count else 1
    mixtures = full_precision(mixup_logits).to(rows.logits.dtype).reshape(blocks, *logits.shape)
    purity = full_precision(mixup_target).to(rows.logits.dtype).reshape(blocks, *logits.shape)
    if rows.kept is not None:
        ignored = ~rows.kept.unsqueeze(-1)
        mixtures, purity = mixtures.masked_fill(ignored, 0.0), purity.masked_fill(ignored, 0.0)
    check_probabilities(loss, "mixup_target", purity)
    return MixtureRows(rows.logits, mixtures, purity, rows.kept)
