"""The base of monitors on a fixed probe: kept training rows, and the network in evaluation mode."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, field
from typing import Any, ClassVar

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.callbacks.access import evaluation_mode, refuse_hidden_gradients
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.numerics.rows import labelled_rows
from lightning_losses.numerics.settings import Count
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.processes import gather_batch, group_rank, world_size
from lightning_losses.parallel.sharding import is_sharded, unsharded_copy
from lightning_losses.teachers.feature_taps import FeatureTap


class ProbeMonitor(Monitor):
    """Base of the monitors that evaluate the network on the first rows with a target in the first training batch.

    The rows never change, also not in a resumed run, because the checkpoint holds them. With several processes their
    first batches are combined in the order of Lightning's distributed sampler, and every process measures on the same
    rows, those that a single process would have. Batches are mappings with `inputs` and `target`, or (inputs, target);
    the module, called on the inputs, gives the logits. Measuring changes no modes, gradients, weights or random states.
    Under FSDP2 each process measures on a temporary copy with whole weights.

    Args:
        samples: number of rows over all processes, at least 1.
        ignore_index: the target of ignored rows; None takes the module's `ignore_index`, or that of its losses.
        every_n_steps, folder: see `Monitor`.
    """

    kept: ClassVar[tuple[str, ...]] = (*Monitor.kept, "probe")

    every_n_steps = 100

    _: KW_ONLY
    samples: Count = 256
    ignore_index: int | None = None
    probe: tuple[Tensor, Tensor] | None = field(init=False, default=None)

    def measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor
    ) -> Mapping[str, float]:
        """The values to record, by name; empty while there is nothing to measure."""
        raise NotImplementedError

    @property
    def takes_tokens(self) -> bool:
        """Whether samples may have several targets each; not if each has a loss, or counts as one of its class."""
        return False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse strategies that hide parameters."""
        refuse_hidden_gradients(self.name, trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the probe from the first batch; measure when due."""
        if self.probe is None:
            ignored = ignored_targets(pl_module, self.ignore_index)
            given = inputs_and_target(self.name, batch)
            if not self.takes_tokens:
                refuse_tokens(self.name, given[1])
            probe = first_rows(*with_target(*given, *ignored), self.samples)
            if len(probe[0]) == 0:
                return
            self.probe = probe
        if self.due(trainer.global_step):
            inputs, target = (tensor.to(pl_module.device) for tensor in self.probe)
            module = unsharded_copy(pl_module) if is_sharded(pl_module) else pl_module
            with evaluating(module):
                values = self.measure(trainer, module, inputs, target)  # type: ignore[arg-type]
            if values:
                self.record(trainer, trainer.global_step, values)


class LayerMonitor(ProbeMonitor):
    """Base of the monitors of layers: their outputs for the probe, flattened to [n, d], and its class indices.

    Args:
        layers: names of the modules whose outputs are measured.
        samples, ignore_index, every_n_steps, folder: see `ProbeMonitor`.

    Raises:
        ValueError: no list of layers, or layers that don't exist or don't run; a target that is no index.
    """

    samples = 512

    layers: Sequence[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layers, str) or not self.layers:
            raise ValueError(f"{self.name}: layers={self.layers!r} came; give a list of module names.")

    def measure_layer(
        self, activity: Float[Tensor, "samples d"], target: Int[Tensor, " samples"]
    ) -> Mapping[str, float]:
        """The values of a layer to record, by name."""
        raise NotImplementedError

    def measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor
    ) -> Mapping[str, float]:
        """The values of every layer, as ``<layer>/<name>``."""
        if target.is_floating_point():
            raise ValueError(f"{self.name}: a floating-point target came; information is about class indices.")
        with FeatureTap(pl_module, self.layers, self.name) as tap, torch.no_grad():
            pl_module(inputs)
            outputs = tap.latest()
        return {
            f"{layer}/{part}": value
            for layer, output in outputs.items()
            for part, value in self.measure_layer(output.detach().flatten(1), target).items()
        }


def refuse_tokens(who: str, target: Tensor) -> None:
    """Raise ``ValueError`` for class indices of which a sample has several, as texts have of their tokens."""
    if not target.is_floating_point() and target.ndim != 1:
        raise ValueError(
            f"{who}: a target of shape {list(target.shape)} came; it measures samples of one class index each, so "
            "leave it out of the training of a language model."
        )


def with_target(inputs: Tensor, target: Tensor, *ignored: int) -> tuple[Tensor, Tensor]:
    """The rows of a batch that have a target, by `labelled_rows`; all rows of a regression on one number.

    Example:
        >>> with_target(torch.tensor([1.0, 2.0]), torch.tensor([-100, 3]))
        (tensor([2.]), tensor([3]))
    """
    classes = target.is_floating_point() and target.ndim == 2 and target.shape[1] > 1
    if not classes and (target.is_floating_point() or target.ndim != 1):
        return inputs, target
    known = labelled_rows(target, *ignored)
    return inputs[known], target[known]


@torch.no_grad()
def first_rows(inputs: Tensor, target: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """The first rows of all processes' batches together, the same on each process.

    Row i of process r is row ``i * processes + r`` of the whole, as in `DistributedSampler`.

    Example:
        >>> first_rows(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0]), 2)
        (tensor([[1.],
                [2.]]), tensor([0, 1]))
    """
    own = slice(-(-samples // world_size()))
    place = torch.arange(len(target[own]), device=target.device) * world_size() + group_rank()
    order = gather_batch(place).argsort()[:samples]
    return gather_batch(inputs[own])[order], gather_batch(target[own])[order]


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Within this context every submodule is in evaluation mode and autocast is off; afterwards both are restored."""
    device = next((parameter.device.type for parameter in module.parameters()), "cpu")
    with evaluation_mode(module), torch.enable_grad(), torch.autocast(device, enabled=False):
        yield


def inputs_and_target(who: str, batch: Any) -> tuple[Tensor, Tensor]:
    """The inputs and the target of a batch.

    Raises:
        ValueError: a batch without them.
    """
    if isinstance(batch, Mapping) and {"inputs", "target"} <= set(batch):
        return batch["inputs"], batch["target"]
    if isinstance(batch, Sequence) and len(batch) >= 2 and all(isinstance(part, Tensor) for part in batch[:2]):
        return batch[0], batch[1]
    raise ValueError(f"{who}: a batch of type {type(batch).__name__} came; give {{'inputs', 'target'}} or a pair.")
