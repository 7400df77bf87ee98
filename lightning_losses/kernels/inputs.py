"""The preparation of operands that all fused losses share: checks, the shift, autocast."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.kernels.terms import statistics_dtype
from lightning_losses.numerics.checks import check_floating, check_number, debugging
from lightning_losses.numerics.probabilities import known_everywhere, known_somewhere
from lightning_losses.parallel.processes import is_distributed_tensor

_ACCUMULATES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_head(
    loss: str, hidden: Any, weight: Any, target: Any, bias: Any = None, class_weight: Any = None, empty: bool = False
) -> None:
    """Raise ``ValueError`` unless hidden states, head and targets fit together; `empty` allows a head without rows.

    Class weights must be finite and at least 0; this is checked on a CPU, and under `debug`.
    """
    check_floating(loss, "hidden", hidden)
    check_floating(loss, "weight", weight)
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if is_distributed_tensor(tensor):
            raise ValueError(
                f"{loss}: {name} is a DTensor; give {name}.full_tensor(), or keep the head whole by "
                "leaving it out of fully_shard; a head split by rows goes to "
                "vocab_parallel_cross_entropy."
            )
    check_widths(loss, "hidden", hidden, weight, empty)
    if not torch.is_autocast_enabled(hidden.device.type) and hidden.dtype != weight.dtype:
        raise ValueError(
            f"{loss}: hidden has dtype {hidden.dtype} and weight {weight.dtype}; give both one dtype, or "
            "call under autocast."
        )
    check_target(loss, "hidden", hidden, target)
    for name, vector in (("bias", bias), ("class_weight", class_weight)):
        if vector is not None and (
            not isinstance(vector, Tensor) or vector.shape != weight.shape[:1] or not vector.is_floating_point()
        ):
            came = f"{list(vector.shape)}" if isinstance(vector, Tensor) else type(vector).__name__
            raise ValueError(
                f"{loss}: {name} ({came}) came with a vocabulary of {len(weight)}; give a floating-point "
                f"tensor of shape [{len(weight)}]."
            )
    if class_weight is not None:
        check_class_weight(loss, class_weight)


def check_widths(
    loss: str, name: str, hidden: Float[Tensor, "..."], weight: Float[Tensor, "..."], empty: bool = False
) -> None:
    """Raise ``ValueError`` unless vectors and head have one width; `empty` allows a head without rows."""
    wrong = weight.ndim != 2 or hidden.ndim == 0 or hidden.shape[-1] != weight.shape[-1]
    if wrong or weight.shape[1] == 0 or (len(weight) == 0 and not empty):
        raise ValueError(
            f"{loss}: {name} of shape {list(hidden.shape)} came with weight of shape "
            f"{list(weight.shape)}; give [..., D] and [V, D], D and V at least 1."
        )


def check_target(loss: str, name: str, hidden: Float[Tensor, "*tokens width"], target: Any) -> None:
    """Raise ``ValueError`` unless there is one class index for each vector."""
    if not isinstance(target, Tensor) or target.dtype != torch.int64 or target.shape != hidden.shape[:-1]:
        came = f"{target.dtype} {list(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(
            f"{loss}: target ({came}) came with {name} of shape {list(hidden.shape)}; give int64 token "
            f"ids of shape {list(hidden.shape[:-1])}."
        )


def check_class_weight(loss: str, class_weight: Float[Tensor, " vocabulary"]) -> None:
    """Raise ``ValueError`` for class weights that aren't finite and at least 0, on a CPU and under `debug`."""
    wrong = ~(class_weight.isfinite() & (class_weight >= 0))
    if known_somewhere(wrong) or (debugging() and bool(wrong.any())):
        raise ValueError(
            f"{loss}: class_weight holds {float(class_weight[wrong][0])}; give finite numbers of at least 0."
        )


def check_classes_of_head(loss: str, vocabulary: int, least: int = 2) -> None:
    """Raise ``ValueError`` for a head of one class, over which a softmax is constant."""
    if vocabulary < least:
        raise ValueError(
            f"{loss}: a head of {vocabulary} class came, and softmax over one class is 1 whatever the logit; give at "
            f"least {least} classes, or use binary_cross_entropy_with_logits on one yes-or-no logit."
        )


def check_targets(
    loss: str, target: Int[Tensor, " tokens"], kept: Bool[Tensor, " tokens"], vocabulary: int, ignore_index: int
) -> None:
    """Raise ``ValueError`` for a kept target outside the vocabulary: always on a CPU, elsewhere under `debug`."""
    if target.device.type != "cpu" and not debugging():
        return
    wrong = target[kept & ((target < 0) | (target >= vocabulary))]
    if len(wrong):
        raise ValueError(
            f"{loss}: target {int(wrong[0])} came with a vocabulary of {vocabulary}; give 0 to "
            f"{vocabulary - 1}, or ignore_index={ignore_index}."
        )


def check_cached_classes(
    loss: str, classes: Int[Tensor, "rows k"], vocabulary: int, kept: Bool[Tensor, " rows"] | None = None
) -> None:
    """Raise ``ValueError`` for a cached class outside the vocabulary, or twice in a kept row.

    Checked always on a CPU, on other devices under `debug`.
    """
    if classes.device.type != "cpu" and not debugging():
        return
    wrong = classes[(classes < 0) | (classes >= vocabulary)]
    if len(wrong):
        raise ValueError(
            f"{loss}: a cached logit of class {int(wrong[0])} came with a vocabulary of {vocabulary}; give classes 0 "
            f"to {vocabulary - 1}."
        )
    ordered = (classes if kept is None else classes[kept]).sort(dim=-1).values
    twice = ordered[..., 1:][ordered.diff(dim=-1) == 0]
    if len(twice):
        raise ValueError(
            f"{loss}: cached logits hold class {int(twice[0])} twice in a row; give each class once, as TopKLogits.of "
            "does."
        )


class ChosenRows(NamedTuple):
    """The rows of hidden states and targets that a loss is evaluated on.

    Attributes:
        hidden: [N, D].
        target: [N], 0 where ignored.
        places: [N] their positions among all rows; None if no row was dropped.
        kept: [N] whether each row counts; None if all do.
    """

    hidden: Float[Tensor, "rows width"]
    target: Int[Tensor, " rows"]
    places: Int[Tensor, " rows"] | None
    kept: Bool[Tensor, " rows"] | None


def choose_rows(
    loss: str,
    hidden: Float[Tensor, "*tokens width"],
    target: Int[Tensor, "*tokens"],
    vocabulary: int,
    ignore_index: int,
    drop_ignored: bool | None = None,
) -> ChosenRows:
    """Flat rows with checked targets; ignored rows are dropped, or kept with weight 0.

    By default they are dropped only on a CPU: for another device the host would have to wait for their number.
    """
    rows, flat = hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1)
    kept = flat != ignore_index
    check_targets(loss, flat, kept, vocabulary, ignore_index)
    if not (rows.device.type == "cpu" if drop_ignored is None else drop_ignored):
        return ChosenRows(rows, flat.masked_fill(~kept, 0), None, kept)
    places = kept.nonzero().squeeze(1)
    if len(places) == len(flat):
        return ChosenRows(rows, flat, None, None)
    return ChosenRows(rows[places], flat[places], places, None)


def whole_shift(loss: str, shift: int | bool) -> int:
    """The shift; raises ``ValueError`` unless it is a whole number."""
    if not isinstance(shift, int):
        raise ValueError(f"{loss}: shift={shift!r} came; give a whole number of places, or True for 1.")
    return int(shift)


def check_chunk(loss: str, chunk: int | tuple[int, int] | None, tiles: bool = False) -> None:
    """Raise ``ValueError`` unless sizes of chunks are whole numbers of at least 1; with `tiles`, one or a pair."""
    if isinstance(chunk, tuple) and not (tiles and len(chunk) == 2):
        wanted = "a number of tokens, or a pair of tokens and vocabulary entries" if tiles else "one number of tokens"
        raise ValueError(f"{loss}: chunk={chunk} came; give {wanted}.")
    for size in chunk if isinstance(chunk, tuple) else () if chunk is None else (chunk,):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{loss}: chunk={chunk} came; give whole numbers of at least 1.")


def check_accum_dtype(loss: str, accum_dtype: Any) -> None:
    """Raise ``ValueError`` unless gradients can be accumulated in a dtype; None is the weight's own."""
    if accum_dtype is not None and accum_dtype not in _ACCUMULATES:
        names = ", ".join(map(str, _ACCUMULATES))
        raise ValueError(f"{loss}: accum_dtype={accum_dtype!r} came; give one of {names}, or None for the weight's.")


def shifted(
    loss: str, hidden: Float[Tensor, "..."], target: Int[Tensor, "..."], shift: int | bool
) -> tuple[Float[Tensor, "..."], Int[Tensor, "..."]]:
    """Hidden states beside the targets `shift` places on."""
    shift = whole_shift(loss, shift)
    if shift == 0:
        return hidden, target
    length = target.shape[-1] if target.ndim else 0
    if not 0 <= shift < length:
        raise ValueError(f"{loss}: shift={shift} came with sequences of {length}; give 0 to {length - 1}.")
    return hidden[..., :-shift, :], target[..., shift:]


def autocast(
    hidden: Float[Tensor, "..."], weight: Float[Tensor, "..."], bias: Float[Tensor, "..."] | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the dtype that autocast gives a linear layer, if it is on."""
    device = hidden.device.type
    if not torch.is_autocast_enabled(device) or hidden.dtype == torch.float64:
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def unmasked_classes(
    loss: str, bias: Float[Tensor, " vocabulary"] | None, label_smoothing: float, softcap: float | None
) -> Float[Tensor, " vocabulary"] | None:
    """1 for each class that label smoothing covers, 0 for a class masked by a bias of -inf; None for all ones.

    Raises:
        ValueError: a bias of -inf beside a softcap, on a CPU and under `debug`.

    Example:
        >>> unmasked_classes("demo", torch.tensor([0.5, -torch.inf]), 0.1, None)
        tensor([1., 0.])
    """
    if bias is None or not (label_smoothing or softcap):
        return None
    masked = torch.isneginf(bias.detach())
    if softcap is not None:
        if known_somewhere(masked) or (debugging() and bool(masked.any())):
            raise ValueError(
                f"{loss}: a bias of -inf came with softcap={softcap}, which turns it into the ordinary score "
                f"{-softcap}; leave classes without probability out of the head, or give no softcap."
            )
        return None
    return None if known_everywhere(~masked) else (~masked).to(statistics_dtype(bias))


def filter_threshold(
    loss: str, filter_eps: float | Literal["auto"] | None, weight: Float[Tensor, "..."]
) -> float | None:
    """The threshold as a number; "auto" is the epsilon of the products' dtype / 32."""
    if filter_eps is None:
        return None
    if filter_eps == "auto":
        device = weight.device.type
        on = torch.is_autocast_enabled(device) and weight.dtype != torch.float64
        return torch.finfo(torch.get_autocast_dtype(device) if on else weight.dtype).eps / 32
    check_number(loss, "filter_eps", filter_eps, least=0)
    return float(filter_eps)


def check_normalizer(loss: str, normalizer: float | Tensor | None, reduction: str) -> None:
    """Raise ``ValueError`` for a normalizer that is not above 0, or has no mean to divide."""
    if normalizer is None:
        return
    if reduction != "mean":
        raise ValueError(f"{loss}: normalizer={normalizer} came with reduction={reduction!r}; it divides a mean.")
    if not isinstance(normalizer, Tensor):
        check_number(loss, "normalizer", normalizer, above=0)
    elif normalizer.numel() != 1:
        raise ValueError(f"{loss}: normalizer of shape {list(normalizer.shape)} came; give one number above 0.")
    elif known_somewhere(~(normalizer > 0)) or (debugging() and not bool(normalizer > 0)):
        raise ValueError(f"{loss}: normalizer={float(normalizer)} came; give a number above 0.")


def scales(
    hidden: Float[Tensor, "tokens width"],
    reduction: str,
    normalizer: float | Tensor | None,
    row_weight: float | Float[Tensor, " tokens"] = 1.0,
    z_loss: float = 0.0,
    kept: Bool[Tensor, " tokens"] | None = None,
) -> tuple[float | Tensor, float | Tensor]:
    """The factors of the sums over rows of losses and of ``lse^2``; `kept` marks the rows that count, if not all."""
    if reduction != "mean":
        return 1.0, z_loss
    tokens: int | Tensor = max(len(hidden), 1)
    if kept is not None:
        tokens = kept.sum().clamp(min=1).to(statistics_dtype(hidden))
    if normalizer is not None:
        if isinstance(normalizer, Tensor):
            normalizer = normalizer.detach().to(hidden.device, statistics_dtype(hidden)).reshape(())
        return 1.0 / normalizer, z_loss and z_loss / normalizer
    if isinstance(row_weight, Tensor):
        mass = (row_weight if kept is None else row_weight * kept).sum()
        return 1.0 / torch.where(mass > 0, mass, 1.0), z_loss and z_loss / tokens
    # A z-loss of 0 stays a number, by which it is known to be none.
    return 1.0 / tokens, z_loss and z_loss / tokens
