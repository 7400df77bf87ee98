"""The inputs of metrics: logits or probabilities, multi-class, binary or multi-label."""

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Required, TypedDict, TypeVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_choice
from lightning_losses.numerics.probabilities import full_precision

Inputs = Literal["logits", "probabilities"]
Task = Literal["multiclass", "binary", "multilabel"]

Declared = TypeVar("Declared", bound=Callable[..., Any])


class Options(TypedDict, total=False):
    """The options of every metric of predictions, as a function.

    Attributes:
        inputs: "logits" or "probabilities"; this is never guessed.
        task: "multiclass" ([N, C] with [N]), "binary" ([N] with [N]) or "multilabel" ([N, L] with [N, L]).
        ignore_index: rows with this target are left out (not possible for entries of "multilabel").
        validate: False skips the checks of values, which synchronise the device.
    """

    inputs: Required[Inputs]
    task: Task
    ignore_index: int
    validate: bool


class MetricOptions(Options, total=False):
    """The options of every metric of predictions, as a class.

    Attributes:
        keep_rows: keep each sample's statistics, so that `interval` can resample them.
        compute_on_cpu, compute_with_cache, dist_sync_on_step, dist_sync_fn, distributed_available_fn, process_group,
            sync_on_compute: as in `torchmetrics.Metric`.
    """

    keep_rows: bool
    compute_on_cpu: bool
    compute_with_cache: bool
    dist_sync_on_step: bool
    dist_sync_fn: Callable[..., Any] | None
    distributed_available_fn: Callable[..., bool] | None
    process_group: Any
    sync_on_compute: bool


class Predictions(NamedTuple):
    """Predictions, their targets and their kind."""

    values: Float[Tensor, "..."]
    target: Int[Tensor, "..."]
    inputs: Inputs
    task: Task = "multiclass"

    def probabilities(self) -> Float[Tensor, "..."]:
        """Probabilities as given; for logits, the softmax (multi-class) or the sigmoid."""
        if self.inputs == "probabilities":
            return self.values
        return torch.softmax(self.values, dim=-1) if self.task == "multiclass" else torch.sigmoid(self.values)


def shows_options(taker: Callable[..., Any]) -> Callable[[Declared], Declared]:
    """Replace ``**options`` in a signature by the options and their defaults."""

    def show(declared: Declared) -> Declared:
        own = inspect.signature(declared.__init__ if isinstance(declared, type) else declared)  # type: ignore[misc]
        named, options = [one for one in own.parameters.values() if one.name != "self"], dict[str, Any]()
        if named and named[-1].kind is inspect.Parameter.VAR_KEYWORD and get_args(named[-1].annotation):
            options = get_args(named.pop().annotation)[0].__annotations__
        taken = inspect.signature(taker).parameters
        named += [taken[name] for name in options if name in taken]
        declared.__signature__ = own.replace(parameters=named)  # type: ignore[attr-defined]
        return declared

    return show


# Probabilities from a network in half precision sum to 1 only within about 1e-3.
SUM_TOLERANCE = 1e-2


def checked_predictions(
    metric: str,
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    inputs: Inputs,
    task: Task = "multiclass",
    ignore_index: int = -100,
    validate: bool = True,
    tasks: tuple[Task, ...] = get_args(Task),
) -> Predictions:
    """Predictions and their targets, flattened to rows, without the ignored ones.

    Logits in half precision become float32. Probabilities keep their precision, so that those on the edge of a bin stay
    there.

    Args:
        metric: the name that errors begin with.
        predictions: [..., C] for "multiclass", [...] for "binary", [..., L] for "multilabel".
        target: [...] class indices; 0 or 1 of shape [...] for "binary" and of shape [..., L] for "multilabel".
        inputs, task, ignore_index, validate: see `Options`.
        tasks: the tasks that the metric supports.

    Raises:
        ValueError: shapes, dtypes or choices that do not fit; only one class; with `validate`, NaN, logits whose
            softmax is NaN, targets outside the classes, probabilities outside [0, 1] or, multi-class, that do not sum
            to 1 (to 1e-2).
    """
    check_choice(metric, "inputs", inputs, Inputs)
    check_choice(metric, "task", task, tasks)
    if not (isinstance(predictions, Tensor) and predictions.is_floating_point()):
        came = predictions.dtype if isinstance(predictions, Tensor) else type(predictions).__name__
        raise ValueError(f"{metric}: predictions of type {came} came; give floating-point {inputs}.")
    if not isinstance(target, Tensor) or target.is_floating_point() or target.is_complex():
        came = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"{metric}: target of type {came} came; give a tensor of integers.")
    expected = predictions.shape[:-1] if task == "multiclass" else predictions.shape
    if predictions.ndim == 0 or (task != "binary" and predictions.ndim < 2) or target.shape != expected:
        raise ValueError(
            f"{metric}: predictions of shape {list(predictions.shape)} came with a target of shape "
            f"{list(target.shape)} for task={task!r}; multiclass takes [N, C] and [N], binary [N] and "
            "[N], multilabel [N, L] and [N, L]."
        )
    if task == "multilabel" and predictions.shape[-1] == 0:
        raise ValueError(f"{metric}: predictions of shape {list(predictions.shape)} have no labels; give at least one.")
    if task == "multiclass" and predictions.shape[-1] < 2:
        raise ValueError(
            f"{metric}: predictions of shape {list(predictions.shape)} have fewer than two classes; for one score per "
            "sample give task='binary' and predictions of the target's shape."
        )
    predictions, target = predictions.detach(), target.detach().long()
    if inputs == "logits":
        predictions = full_precision(predictions)
    if task == "binary":
        predictions, target = predictions.reshape(-1), target.reshape(-1)
    else:
        predictions = predictions.reshape(-1, predictions.shape[-1])
        target = target.reshape(-1) if task == "multiclass" else target.reshape(predictions.shape)
    if task != "multilabel":
        kept = target != ignore_index
        if not bool(kept.all()):
            predictions, target = predictions[kept], target[kept]
    if validate and target.numel() > 0:
        _check_values(metric, predictions, target, inputs, task)
    return Predictions(predictions, target, inputs, task)


def _check_values(metric: str, predictions: Tensor, target: Tensor, inputs: Inputs, task: Task) -> None:
    # NaN propagates to the minimum and the maximum: one pass, no copy.
    low, high = torch.stack(torch.aminmax(predictions)).tolist()
    if low != low or high != high:
        raise ValueError(
            f"{metric}: predictions hold NaN; find the layer that produces it, or leave those samples out."
        )
    if (
        inputs == "logits"
        and task == "multiclass"
        and not (high < math.inf and (low > -math.inf or _some_kept(predictions)))
    ):
        raise ValueError(
            f"{metric}: logits of +inf, or rows of nothing but -inf, came, whose softmax is NaN; give finite logits, "
            "and -inf only for masked classes."
        )
    classes = predictions.shape[-1] if task == "multiclass" else 2
    if int(target.min()) < 0 or int(target.max()) >= classes:
        raise ValueError(
            f"{metric}: targets from {int(target.min())} to {int(target.max())} came for task={task!r} "
            f"with {classes} classes; give 0 to {classes - 1}."
        )
    if inputs == "logits":
        return
    if low < 0 or high > 1:
        raise ValueError(
            f"{metric}: probabilities from {low:g} to {high:g} came; give values in [0, 1], or inputs='logits'."
        )
    if task == "multiclass" and float((full_precision(predictions).sum(dim=-1) - 1).abs().max()) > SUM_TOLERANCE:
        raise ValueError(
            f"{metric}: rows of the probabilities do not sum to 1; normalise them, or give inputs='logits' or "
            "task='multilabel'."
        )


def _some_kept(logits: Float[Tensor, "rows classes"]) -> bool:
    return bool((logits.amax(dim=-1) > -torch.inf).all())
