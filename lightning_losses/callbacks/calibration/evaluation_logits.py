"""The logits and targets of a whole evaluation, in the order of a single process."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DistributedSampler

from lightning_losses.calibrators import image_views
from lightning_losses.callbacks.access import evaluation_mode
from lightning_losses.environment.lightning_internals import before_transfer
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.rows import class_indices, labelled_rows
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.processes import rows_of_all, values_of_all, world_size


class Evaluated(NamedTuple):
    """Logits and class indices of every sample, on the host."""

    logits: Float[Tensor, "samples classes"]
    target: Int[Tensor, " samples"]


class _Rows(NamedTuple):
    """Rows of this process, and the number of the sample that each belongs to; `samples` counts the samples so far."""

    logits: Float[Tensor, "rows classes"]
    target: Int[Tensor, " rows"]
    place: Int[Tensor, " rows"]
    samples: int


class EvaluationLogits:
    """Collects what evaluation steps return, by data loader, and gathers it from all processes.

    Args:
        who: the name that errors begin with.
        views: whether the logits of views follow a sample's own.
        binary: whether one logit per sample is accepted too.
        ignore_index: the target of ignored samples; None takes those of the module, by `ignored_targets`.
    """

    def __init__(self, who: str, *, views: bool = False, binary: bool = False, ignore_index: int | None = None) -> None:
        self.who = who
        self.views = views
        self.binary = binary
        self.ignore_index = ignore_index
        self._batches: dict[int, list[_Rows]] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._batches = {}

    def add(
        self, module: L.LightningModule, outputs: Any, dataloader_idx: int = 0, step: str = "validation_step"
    ) -> None:
        """Collect what a step returned; raises as `read`."""
        logits, target = self.read(module, outputs, step)
        batches = self._batches.setdefault(dataloader_idx, [])
        samples, before = len(outputs["target"]), batches[-1].samples if batches else 0
        place = torch.arange(samples).repeat_interleave(len(target) // max(samples, 1))
        batches.append(_Rows(logits, target, before + place, before + samples))

    def read(self, module: L.LightningModule, outputs: Any, step: str = "validation_step") -> Evaluated:
        """The logits and class indices that a step returned; -100 for ignored samples.

        Args:
            module: the module of the step.
            outputs: what the step returned.
            step: the step's name, for errors.

        Raises:
            ValueError: a step that returned no "logits" and "target", or ones that don't belong together.
        """
        if not isinstance(outputs, Mapping) or not {"logits", "target"} <= set(outputs):
            raise ValueError(
                f"{self.who}: {step} returned no 'logits' and 'target'; return "
                '{"logits": logits, "target": target}.'
            )
        logits, target = outputs["logits"], outputs["target"]
        if not (isinstance(logits, Tensor) and logits.is_floating_point() and isinstance(target, Tensor)):
            came = " and ".join(str(getattr(value, "dtype", type(value).__name__)) for value in (logits, target))
            raise ValueError(
                f"{self.who}: {step} returned logits and target of types {came}; return tensors of "
                "floating-point logits and of class indices."
            )
        logits, target = full_precision(logits.detach()), target.detach()
        if target.ndim > 0:
            kept = labelled_rows(target, *ignored_targets(module, self.ignore_index))
            target = class_indices(target).long().masked_fill(~kept, -100)
        # If there are views, their dimension follows those of the samples.
        own = logits.ndim - target.ndim - self.views
        fits = (own == 1 and logits.shape[-1] > 1) or (own == 0 and self.binary)
        if target.ndim == 0 or logits.shape[: target.ndim] != target.shape or not fits:
            given, there = (list(outputs[name].shape) for name in ("logits", "target"))
            raise ValueError(
                f"{self.who}: {step} returned logits of shape {given} and a target of shape {there}; return logits "
                "[batch, C] of at least two classes and class indices [batch]; further dimensions, such as those of "
                "tokens, come before the classes."
            )
        # A copy: a step may write its next logits where these are.
        return Evaluated(logits.flatten(0, target.ndim - 1).to("cpu", copy=True), target.reshape(-1).cpu())

    def gather(self, trainer: L.Trainer, loaders: Any) -> dict[int, Evaluated]:
        """The rows of every sample, once, by data loader; equal on all processes. What was collected is then dropped.

        Lightning's distributed sampler repeats samples until all processes have equally many. Here the data set's order
        is restored and the repeated samples are dropped. If every process evaluated all samples, those of one are
        taken.
        """
        gathered = {}
        sources = loaders_of(loaders)
        nothing = torch.zeros(0, dtype=torch.int64)
        # Of a loader that gave this process no batch, others may have some.
        for number in sorted({number for numbers in values_of_all(list(self._batches)) for number in numbers}):
            batches = self._batches.get(number, [_Rows(torch.zeros(0), nothing, nothing, 0)])
            logits, target, place = (torch.cat(parts) for parts in list(zip(*batches, strict=True))[:3])
            own = _Rows(logits, target, place, batches[-1].samples)
            logits, target = _from_all(trainer, own, sources[number] if number < len(sources) else None)
            gathered[number] = Evaluated(logits[target != -100], target[target != -100])
        self.clear()
        return gathered


def loaders_of(loaders: Any) -> list[Any]:
    """The data loaders in a trainer's collection, in order."""
    if loaders is None:
        return []
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, Sequence) else [loaders]


@torch.no_grad()
def predicted(
    collected: EvaluationLogits,
    trainer: L.Trainer,
    module: L.LightningModule,
    loaders: Any,
    limits: Sequence[float],
    dataloader_idx: int = 0,
    views: Sequence[str] = (),
) -> Evaluated:
    """The outputs of the module's `predict_step` for every sample of a data loader, in evaluation mode.

    It serves at the end of a fit, where the trainer can't run a loop. The module's mode is restored. With `views` the
    logits are those of each sample and its transformed views, [samples, 1 + V, C]. Anything collected before is
    dropped.

    Raises:
        ValueError: there is no such data loader, or it has no batches.
    """
    sources, who = loaders_of(loaders), collected.who
    collected.clear()
    if dataloader_idx >= len(sources):
        raise ValueError(f"{who}: there is no data loader {dataloader_idx} to predict; the trainer has {len(sources)}.")
    with evaluation_mode(module), trainer.precision_plugin.forward_context():
        for number, batch in enumerate(_batches(trainer, module, sources, limits, dataloader_idx)):
            arguments = (batch, number) if len(sources) == 1 else (batch, number, dataloader_idx)
            outputs = with_views(collected.who, module, module.predict_step(*arguments), arguments, views)
            collected.add(module, outputs, step="predict_step")
    found = collected.gather(trainer, [sources[dataloader_idx]])
    if 0 not in found:
        raise ValueError(f"{who}: data loader {dataloader_idx} has no batches; give validation data.")
    return found[0]


def with_views(
    who: str, module: L.LightningModule, outputs: Any, arguments: Sequence[Any], views: Sequence[str]
) -> Any:
    """A step's outputs, with the samples' logits followed by those of their transformed views, [batch, 1 + V, C].

    Args:
        who: the name that errors begin with.
        module: the module whose `predict_step` predicts the views.
        outputs: what the step returned for the batch itself.
        arguments: the step's arguments; the first is the batch: images, a tuple that begins with images, or a mapping
            with "inputs".
        views: names of views as in `image_views`; without views the outputs are returned unchanged.
    """
    if not views:
        return outputs
    batch, *rest = arguments
    mapping = isinstance(batch, Mapping)
    place: Any = "inputs" if mapping else 0
    images = batch if isinstance(batch, Tensor) else batch[place] if not mapping or place in batch else None
    if not isinstance(images, Tensor) or not isinstance(outputs, Mapping) or "logits" not in outputs:
        raise ValueError(
            f"{who}: views need batches of images, tuples that begin with images, or mappings with 'inputs', and steps "
            f"that return 'logits'; a {type(batch).__name__} and a {type(outputs).__name__} came."
        )
    logits = [outputs["logits"]]
    for view in image_views(images, views):
        other: Any = view
        if mapping:
            other = {**batch, place: view}
        elif not isinstance(batch, Tensor):
            other = [view, *batch[1:]]
        logits.append(module.predict_step(other, *rest)["logits"])
    return {**outputs, "logits": torch.stack(logits, dim=-2)}


def on_the_device(trainer: L.Trainer, module: L.LightningModule, batch: Any, dataloader_idx: int = 0) -> Any:
    """A batch as a step gets it: converted to the run's precision, through the module's hooks, on the device."""
    batch = before_transfer(module, trainer.precision_plugin.convert_input(batch), dataloader_idx)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=dataloader_idx)


def _batches(
    trainer: L.Trainer, module: L.LightningModule, sources: Sequence[Any], limits: Sequence[float], dataloader_idx: int
) -> Iterator[Any]:
    limit = limits[dataloader_idx] if dataloader_idx < len(limits) else float("inf")
    loader = sources[dataloader_idx]
    for batch in loader if limit == float("inf") else islice(loader, int(limit)):
        yield on_the_device(trainer, module, batch, dataloader_idx)


def _from_all(trainer: L.Trainer, own: _Rows, loader: Any) -> Evaluated:
    if world_size() == 1:
        return Evaluated(own.logits, own.target)
    device = trainer.strategy.root_device
    samples = set(values_of_all(own.samples))
    parts = [rows_of_all(tensor.to(device)) for tensor in own[:3]]
    sizes = [len(rows) for rows in parts[0]]
    logits, target, place = (torch.cat(rows).cpu() for rows in parts)
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSampler) and not sampler.shuffle and len(samples) == 1:
        # Process r holds samples r, r + world, r + 2 world, ...
        rank = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        sample = place * len(sizes) + rank
        order = sample.argsort(stable=True)
        order = order[sample[order] < len(sampler.dataset)]  # type: ignore[arg-type]
        return Evaluated(logits[order], target[order])
    shares = [Evaluated(*pair) for pair in zip(torch.split(logits, sizes), torch.split(target, sizes), strict=True)]
    first = shares[0]
    if all(
        share.target.shape == first.target.shape
        and torch.equal(share.target, first.target)
        and torch.allclose(share.logits, first.logits, rtol=1e-3, atol=1e-3)
        for share in shares
    ):
        return first
    return Evaluated(logits, target)
