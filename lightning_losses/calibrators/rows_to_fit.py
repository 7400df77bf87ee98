"""The logits and classes that a fit is made of, checked."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision


def rows_to_fit(
    name: str,
    logits: Float[Tensor, "*rows classes"],
    target: Int[Tensor, "*rows"],
    ignore_index: int = -100,
    *,
    takes_binary: bool = False,
) -> tuple[Float[Tensor, "rows classes"], Int[Tensor, " rows"]]:
    """Rows of finite logits in full precision and their class indices, without the ignored ones.

    Args:
        name: what errors begin with.
        logits: [..., C]; [N] where binary logits are accepted.
        target: [...] int64 class indices.
        ignore_index: rows with this target are left out.
        takes_binary: whether one score for each sample, [N], is accepted.

    Raises:
        ValueError: shapes or dtypes that do not fit, only one class, NaN or inf logits, targets outside the classes, no
            rows.

    Example:
        >>> rows_to_fit("demo", torch.zeros(2, 3), torch.tensor([1, -100]))[1]
        tensor([1])
    """
    check_floating(name, "logits", logits)
    binary = takes_binary and logits.ndim == 1
    if logits.ndim < 2 and not binary:
        raise ValueError(
            f"{name}: logits have shape {list(logits.shape)}; give [N, C]"
            f"{' or, for two classes, [N]' if takes_binary else ''}."
        )
    if not binary and logits.shape[-1] < 2:
        raise ValueError(
            f"{name}: logits of shape {list(logits.shape)} have fewer than two classes, which leaves nothing to "
            f"calibrate; give [N, C]{', or one score per sample flattened to [N]' if takes_binary else ''}."
        )
    if not isinstance(target, Tensor):
        raise ValueError(f"{name}: target is a {type(target).__name__}; give one int64 class index per row.")
    one_score = takes_binary and logits.numel() == target.numel()
    scores = ", or one score per sample: logits.flatten() and target.flatten()" if one_score else ""
    if target.dtype != torch.int64 or target.shape != (logits.shape if binary else logits.shape[:-1]):
        raise ValueError(
            f"{name}: target of dtype {target.dtype} and shape {list(target.shape)} came with logits "
            f"of shape {list(logits.shape)}; give one int64 class index per row{scores}."
        )
    logits, target = full_precision(logits.detach()), target.detach()
    if not binary:
        logits, target = logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
    kept = target != ignore_index
    if not bool(kept.all()):
        logits, target = logits[kept], target[kept]
    if len(target) == 0:
        raise ValueError(f"{name}: no rows came to fit on; give at least one sample that is not ignore_index.")
    classes = 2 if binary else logits.shape[-1]
    if int(target.min()) < 0 or int(target.max()) >= classes:
        raise ValueError(
            f"{name}: targets from {int(target.min())} to {int(target.max())} came with {classes} "
            f"classes; give 0 to {classes - 1}, or ignore_index={ignore_index}."
        )
    # NaN propagates to the minimum and the maximum: one pass, no copy.
    if not bool(torch.isfinite(torch.stack(torch.aminmax(logits))).all()):
        raise ValueError(f"{name}: logits hold NaN or inf; fit on finite logits, and leave masked classes out.")
    return logits, target
