"""Shared numerics: full-precision log-probabilities, ignored samples, reductions, and the checks on what comes in."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]

_debug = False


@contextmanager
def debug(enabled: bool = True) -> Iterator[None]:
    """Within this context, losses also run the checks that cost a device synchronisation.

    Example:
        >>> with debug():
        ...     pass
    """
    global _debug
    before, _debug = _debug, enabled
    try:
        yield
    finally:
        _debug = before


def check_number(
    loss: str,
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> None:
    """Raise ``ValueError`` unless `value` is a number with `above` < value, `least` <= value <= `most`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    inside = number and value == value
    inside = inside and (above is None or value > above) and (least is None or value >= least)
    inside = inside and (most is None or value <= most)
    if not inside:
        bounds = [f"above {above:g}"] if above is not None else []
        bounds += [f"at least {least:g}"] if least is not None else []
        bounds += [f"at most {most:g}"] if most is not None else []
        raise ValueError(f"{loss}: {name}={value!r} came; give a number {' and '.join(bounds)}.")


def check_temperature(loss: str, temperature: Any) -> None:
    """Raise ``ValueError`` unless `temperature` is a finite number above 0."""
    check_number(loss, "temperature", temperature, above=0, most=1e9)


def check_count(loss: str, name: str, value: Any) -> None:
    """Raise ``ValueError`` unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{loss}: {name}={value!r} came; give a whole number of at least 1.")


def check_choice(loss: str, name: str, value: Any, choices: Any) -> None:
    """Raise ``ValueError`` unless `value` is one of `choices` (a ``Literal`` type or a sequence)."""
    allowed = get_args(choices) or tuple(choices)
    if value not in allowed:
        raise ValueError(f"{loss}: {name}={value!r} came; choose one of {', '.join(map(repr, allowed))}.")


def check_reduction(loss: str, reduction: Any) -> None:
    """Raise ``ValueError`` unless `reduction` is "mean", "sum" or "none"."""
    check_choice(loss, "reduction", reduction, Reduction)


def check_floating(loss: str, name: str, tensor: Any) -> None:
    """Raise ``ValueError`` unless `tensor` is a floating-point tensor."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{loss}: {name} is a {type(tensor).__name__}; give a floating-point tensor.")
    if not tensor.is_floating_point():
        raise ValueError(f"{loss}: {name} has dtype {tensor.dtype}; give unnormalised floating-point scores.")


def full_precision(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Half-precision tensors as float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def known_everywhere(condition: Bool[Tensor, "..."]) -> bool:
    """Whether a condition holds throughout, if that can be known for free; else False.

    To know it lets a loss leave out masks that would mask nothing. It is free on the CPU outside of compiled code; a
    device would have to be waited for.

    Example:
        >>> known_everywhere(torch.tensor([True, True])), known_everywhere(torch.tensor([True, False]))
        (True, False)
    """
    return _read(condition.device, condition.all) == 1


def known_finite(values: Float[Tensor, "..."]) -> bool:
    """Whether all values are finite, if that can be known for free (as `known_everywhere`); else False.

    Example:
        >>> known_finite(torch.tensor([1.0, 2.0])), known_finite(torch.tensor([1.0, torch.nan]))
        (True, False)
    """
    # A sum that overflows is no harm: what follows is the masked form.
    number = _read(values.device, values.detach().sum)
    return number is not None and math.isfinite(number)


def _read(device: torch.device, number: Callable[[], Tensor]) -> float | None:
    if device.type != "cpu" or torch.compiler.is_compiling():
        return None
    try:
        return float(number())
    except RuntimeError:  # under vmap, and of fake tensors, a value can't be read
        return None


class Rows(NamedTuple):
    """What a classification loss works on, checked, in full precision, with ignored rows made harmless."""

    logits: Float[Tensor, "*rows classes"]
    target: Shaped[Tensor, "..."] | None
    kept: Bool[Tensor, "*rows"] | None


def classification_rows(
    loss: str, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."] | None, ignore_index: int = -100
) -> Rows:
    """Check logits against a target and neutralise the rows whose target is `ignore_index`.

    Args:
        loss: the name that errors begin with.
        logits: [..., C] floating-point scores.
        target: [...] class indices, [..., C] probabilities, or None (no row is ignored then).
        ignore_index: rows with this target count for nothing; their logits and target are set to 0.

    Returns:
        Logits in float32 or float64; the target without `ignore_index`; the mask of kept rows, None if all are known
        to be kept.

    Raises:
        ValueError: dtypes or shapes that do not fit; under `debug`, targets outside [0, C) and NaN logits.
    """
    check_floating(loss, "logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{loss}: logits have shape {list(logits.shape)}; give [..., C] with C of at least 1.")
    logits = full_precision(logits)
    if _debug and bool(torch.isnan(logits).any()):
        raise ValueError(f"{loss}: logits hold NaN; find the layer that made it before the loss hides it.")
    if target is None:
        return Rows(logits, None, None)
    if target.is_floating_point():
        if target.shape != logits.shape:
            raise ValueError(
                f"{loss}: a floating-point target of shape {list(target.shape)} came with logits of shape "
                f"{list(logits.shape)}; probabilities have the shape of the logits, indices are int64."
            )
        return Rows(logits, target.to(logits.dtype), None)
    if target.dtype != torch.int64:
        raise ValueError(
            f"{loss}: target has dtype {target.dtype}; give int64 class indices or floating-point probabilities."
        )
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"{loss}: target of shape {list(target.shape)} came with logits of shape "
            f"{list(logits.shape)}; class indices have shape {list(logits.shape[:-1])}."
        )
    kept = target != ignore_index
    if _debug:
        classes = logits.shape[-1]
        bad = kept & ((target < 0) | (target >= classes))
        if bool(bad.any()):
            raise ValueError(
                f"{loss}: target {int(target[bad][0])} came with {classes} classes; give 0 to "
                f"{classes - 1}, or ignore_index={ignore_index}."
            )
    if known_everywhere(kept):
        return Rows(logits, target, None)
    # An ignored row may hold anything, also inf: zeros keep its (discarded) value and gradient finite.
    return Rows(logits.masked_fill(~kept.unsqueeze(-1), 0.0), target.masked_fill(~kept, 0), kept)


class PairedRows(NamedTuple):
    """`Rows` of a student beside the teacher's, which carry no gradient."""

    logits: Float[Tensor, "*rows classes"]
    teacher_logits: Float[Tensor, "*rows classes"]
    target: Shaped[Tensor, "..."] | None
    kept: Bool[Tensor, "*rows"] | None


def distillation_rows(
    loss: str,
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    ignore_index: int = -100,
) -> PairedRows:
    """Check a student's logits against a teacher's, detach the teacher, neutralise ignored rows in both.

    Args:
        loss: the name that errors begin with.
        logits: [..., C] the student's scores.
        teacher_logits: [..., C] the teacher's scores.
        target: [...] class indices, [..., C] probabilities, or None (no row is ignored then).
        ignore_index: rows with this target count for nothing.

    Raises:
        ValueError: dtypes or shapes that do not fit, a teacher with another number of classes among them.
    """
    check_floating(loss, "teacher_logits", teacher_logits)
    rows = classification_rows(loss, logits, target, ignore_index)
    if teacher_logits.shape != logits.shape:
        detail = "train the student on the teacher's classes, or select the shared ones"
        if logits.shape[-1] == teacher_logits.shape[-1]:
            detail = "give both the same samples"
        raise ValueError(
            f"{loss}: teacher_logits of shape {list(teacher_logits.shape)} came with logits of shape "
            f"{list(logits.shape)}; {detail}."
        )
    teacher = full_precision(teacher_logits.detach()).to(rows.logits.dtype)
    if rows.kept is not None:
        teacher = teacher.masked_fill(~rows.kept.unsqueeze(-1), 0.0)
    return PairedRows(rows.logits, teacher, rows.target, rows.kept)


def class_indices(target: Shaped[Tensor, "..."]) -> Int[Tensor, "*rows"]:
    """Class indices as they are; the largest class of each row of probabilities."""
    return target.argmax(dim=-1) if target.is_floating_point() else target


def log_probabilities(
    logits: Float[Tensor, "*rows classes"], temperature: float = 1.0
) -> Float[Tensor, "*rows classes"]:
    """``log softmax(logits / temperature)`` over the last dimension."""
    return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def probabilities(logits: Float[Tensor, "*rows classes"], temperature: float = 1.0) -> Float[Tensor, "*rows classes"]:
    """``softmax(logits / temperature)`` over the last dimension."""
    return torch.softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def without_class(
    logits: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"]
) -> Float[Tensor, "*rows classes"]:
    """The logits with the target class masked by -inf: their softmax is over the other classes."""
    return logits.scatter(-1, target.unsqueeze(-1), -torch.inf)


def pick(values: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """The entry of each row at its target class."""
    return values.gather(-1, target.unsqueeze(-1)).squeeze(-1)


def weighted_sum(
    weights: Float[Tensor, "*rows classes"], values: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "*rows"]:
    """``sum_k weights_k values_k``, where classes whose value is infinite (masked in either network) add nothing."""
    if values.device.type == "cpu":
        total = (weights * values).sum(dim=-1)
        if known_finite(total):
            return total
    # Cheaper than torch.isfinite, which walks over the values four times.
    finite = values.detach().abs() < torch.inf
    return (weights * torch.where(finite, values, 0.0)).sum(dim=-1)


def expectation(
    log_p: Float[Tensor, "*rows classes"], values: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "*rows"]:
    """``sum_k p_k values_k``, where classes whose value is infinite (masked in either network) add nothing."""
    return weighted_sum(log_p.exp(), values)


def kl_divergence(
    log_p: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "*rows"]:
    """``KL(p || q) = sum_k p_k (log p_k - log q_k)`` per row; classes masked by -inf in either add nothing."""
    return expectation(log_p, log_p - log_q)


class Divergences(NamedTuple):
    """The divergences of two distributions in both directions, per row."""

    forward: Float[Tensor, "*rows"]
    reverse: Float[Tensor, "*rows"]


def kl_divergences(log_p: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"]) -> Divergences:
    """``KL(p || q)`` and ``KL(q || p)`` per row, from one difference; see `kl_divergence`."""
    difference = log_p - log_q
    return Divergences(expectation(log_p, difference), -expectation(log_q, difference))


def log_mean(
    p: Float[Tensor, "*rows classes"], q: Float[Tensor, "*rows classes"], weight: float
) -> Float[Tensor, "*rows classes"]:
    """``log(weight p + (1 - weight) q)`` of probabilities, for a weight in (0, 1); finite, also where both are 0.

    Under a sum weighted by `p` or `q` it does for `log_mixture`, and costs less: where both underflow, so do the
    weights.
    """
    return (weight * p).add_(q, alpha=1 - weight).add_(torch.finfo(p.dtype).tiny).log()


def cross_entropy(log_p: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "*rows"]:
    """``-sum_k q_k log p_k`` per row, q being the one-hot (or given) target; classes with q = 0 add nothing."""
    if not target.is_floating_point():
        return -pick(log_p, target)
    if log_p.device.type == "cpu":
        total = -(target * log_p).sum(dim=-1)
        if known_finite(total):
            return total
    return -(target * log_p.masked_fill(target == 0, 0.0)).sum(dim=-1)


def entropy(log_p: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows"]:
    """``-sum_k p_k log p_k`` per row, in nats."""
    return -expectation(log_p, log_p)


def log_mixture(
    log_p: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"], weight: float
) -> Float[Tensor, "*rows classes"]:
    """``log(weight p + (1 - weight) q)``, for a weight in [0, 1]; -inf where both are."""
    if weight in (0, 1):
        return log_p if weight == 1 else log_q
    # logaddexp of two -inf has a NaN gradient, which even a zero gradient from above would not stop.
    neither = torch.isneginf(log_p) & torch.isneginf(log_q)
    mixed = torch.logaddexp(
        log_p.masked_fill(neither, 0.0) + math.log(weight), log_q.masked_fill(neither, 0.0) + math.log1p(-weight)
    )
    return mixed.masked_fill(neither, -torch.inf)


def reduce(
    value: Float[Tensor, "*rows"], reduction: Reduction = "mean", kept: Bool[Tensor, "*rows"] | None = None
) -> Float[Tensor, "..."]:
    """Reduce values per row: the mean over kept rows, their sum, or each (0 where ignored).

    With no row kept the mean is 0, with zero gradients.

    Raises:
        ValueError: a reduction other than "mean", "sum" or "none".
    """
    check_choice("reduce", "reduction", reduction, Reduction)
    if kept is not None:
        value = value.masked_fill(~kept, 0.0)
    if reduction == "none":
        return value
    if reduction == "sum":
        return value.sum()
    count = max(value.numel(), 1) if kept is None else kept.sum().clamp(min=1)
    return value.sum() / count
