"""The base of the metrics: they take rows, keep exact sums or the rows, and return a value and its interval."""

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_losses.metrics.bootstrap import Interval, bootstrap_interval
from lightning_losses.metrics.predictions import (
    Inputs,
    MetricOptions,
    Predictions,
    Task,
    checked_predictions,
    shows_options,
)
from lightning_losses.numerics.checks import check_choice
from lightning_losses.parallel.processes import rows_of_all


class PredictionMetric(Metric):
    """Base of the metrics of predictions: exact over batches and processes, with confidence intervals.

    A subclass maps predictions to statistics of each sample in `_rows`. If the value is a function of sums over
    samples, the subclass defines `sums_shape`, `_sums` and `_value`; then only float64 sums are kept and added over
    processes. Otherwise it defines `_statistic`, and the samples' statistics are kept and gathered. `keep_rows=True`
    always keeps them, which `interval` needs. `batched` says that `_statistic` takes many resamples at once, as in
    `bootstrap_interval`.

    Args:
        **options: see `MetricOptions`.
    """

    is_differentiable: bool | None = False
    higher_is_better: bool | None = False
    full_state_update: bool | None = False
    plot_lower_bound: float | None = 0.0

    row_names: ClassVar[tuple[str, ...]] = ("row",)
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "binary", "multilabel")
    batched: ClassVar[bool] = False

    def __init__(
        self,
        *,
        inputs: Inputs,
        task: Task = "multiclass",
        ignore_index: int = -100,
        keep_rows: bool = False,
        validate: bool = True,
        sums_shape: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dist_sync_fn": rows_of_all, **kwargs})
        check_choice(type(self).__name__, "inputs", inputs, Inputs)
        check_choice(type(self).__name__, "task", task, self.tasks)
        self.inputs: Inputs = inputs
        self.task: Task = task
        self.ignore_index = ignore_index
        self.validate = validate
        self.streaming = sums_shape is not None
        self.keep_rows = keep_rows or not self.streaming
        if sums_shape is not None:
            self.add_state("sums", torch.zeros(tuple(sums_shape), dtype=torch.float64), dist_reduce_fx="sum")
        if self.keep_rows:
            for name in self.row_names:
                self.add_state(name, [], dist_reduce_fx="cat")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        shows_options(cls.__base__ or PredictionMetric)(cls)

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Add a batch of predictions and targets."""
        given = checked_predictions(
            type(self).__name__,
            predictions,
            target,
            inputs=self.inputs,
            task=self.task,
            ignore_index=self.ignore_index,
            validate=self.validate,
        )
        rows = self._rows(given)
        if self.streaming:
            sums = self._sums(*rows)
            if sums.shape != self.sums.shape:
                raise ValueError(
                    f"{type(self).__name__}: predictions of shape {list(predictions.shape)} came to a metric of "
                    f"num_classes={self.sums.shape[-1]}; give num_classes their number."
                )
            self.sums: Tensor = self.sums + sums
        if self.keep_rows:
            for name, row in zip(self.row_names, rows, strict=True):
                # A copy: probabilities may be the caller's own tensor, which may change later.
                getattr(self, name).append(row.clone())

    def compute(self) -> Tensor:
        """The value over all batches so far; NaN without samples."""
        return self._value(self.sums) if self.streaming else self._statistic(*self._kept())

    def interval(self, level: float = 0.95, *, resamples: int = 500, seed: int = 0) -> Interval:
        """The confidence interval of the value; it contains the value. For binned errors see `calibration_interval`."""
        if not self.keep_rows:
            raise ValueError(
                f"{type(self).__name__}: only sums were kept, which can't be resampled; construct it with "
                "keep_rows=True."
            )
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            return self._interval(self._kept(), level, resamples, seed)

    def _interval(self, rows: tuple[Tensor, ...], level: float, resamples: int, seed: int) -> Interval:
        return bootstrap_interval(
            self._statistic, *rows, level=level, resamples=resamples, seed=seed, batched=self.batched
        )

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one or several values on matplotlib axes; by default the current value."""
        return self._plot(val, ax)

    def _kept(self) -> tuple[Tensor, ...]:
        empty = torch.empty(0, device=self.device)
        return tuple(
            dim_zero_cat(getattr(self, name)) if len(getattr(self, name)) else empty for name in self.row_names
        )

    def _rows(self, given: Predictions) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _sums(self, *rows: Tensor) -> Tensor:
        raise NotImplementedError

    def _value(self, sums: Tensor) -> Tensor:
        raise NotImplementedError

    def _statistic(self, *rows: Tensor) -> Tensor:
        return self._value(self._sums(*rows))


class MeanMetric(PredictionMetric):
    """Base of the metrics that are a mean over samples of the number that `_rows` returns."""

    row_names: ClassVar[tuple[str, ...]] = ("values",)
    batched = True

    def __init__(self, **options: Unpack[MetricOptions]) -> None:
        super().__init__(sums_shape=(2,), **options)

    def _sums(self, *rows: Tensor) -> Tensor:
        values = rows[0].double()
        return torch.stack([values.sum(), values.new_tensor(len(values))])

    def _value(self, sums: Tensor) -> Tensor:
        return sums[0] / sums[1]

    def _statistic(self, *rows: Tensor) -> Tensor:
        return rows[0].double().mean(dim=-1)
