"""Watches neural collapse on the training data after epochs."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_losses.callbacks.access import on_device, refuse_hidden_gradients, refuse_place_after, sum_over_processes
from lightning_losses.callbacks.interventions.weight_aligning import WeightAligning
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.callbacks.monitors.probe import evaluating, inputs_and_target, refuse_tokens, with_target
from lightning_losses.diagnostics.neural_collapse import Limit, neural_collapse
from lightning_losses.numerics.rows import class_indices
from lightning_losses.numerics.settings import Count
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.processes import maximum_of_all
from lightning_losses.parallel.sharding import is_sharded, unsharded_copy
from lightning_losses.plots.grokking import collapse_panels
from lightning_losses.plots.style import Figure


class NeuralCollapse(Monitor):
    """Logs NC1 to NC4 of the classifier and its input, and NC1 of further layers, on training data.

    Reads the training loader again, in evaluation mode, until each process has `samples` rows. Class statistics are
    summed over all processes, so the numbers equal those of one process with all rows, also where a process has none.

    Cost: a forward pass of `samples` rows, every n epochs, and their features in memory; under FSDP2 a copy of the
    module with whole weights meanwhile.

    Args:
        head: the name of the linear classifier.
        layers: names of modules whose outputs, averaged over all but the first two dimensions, get an ``nc1`` too.
        limit: see `lightning_losses.diagnostics.neural_collapse`.
        samples: number of rows per process.
        every_n_epochs: epochs between measurements, at least 1.
        ignore_index: the target of ignored rows; None takes the module's `ignore_index`, or that of its losses.
        folder: see `Monitor`.

    Raises:
        ValueError: a head or layer that the module does not have, or a head that is not linear; numbers below 1; a
            place after `WeightAligning`.

    Source:
        Papyan, Han, Donoho, 2020, arXiv:2008.08186. The layers' variability: He, Su, 2022, "A Law of Data Separation
        in Deep Learning", arXiv:2210.17020.

    Example:
        >>> NeuralCollapse("network.head", every_n_epochs=5).head
        'network.head'
    """

    name = "neural_collapse"

    head: str
    layers: Sequence[str] = ()
    limit: Limit = "simplex"
    samples: Count = 4096
    every_n_epochs: Count = 1
    ignore_index: int | None = field(default=None, kw_only=True)
    # Counts epochs, not steps.
    every_n_steps: int = field(init=False, default=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layers, str):
            raise ValueError(f"{self.name}: layers={self.layers!r} came; give a list of module names.")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the names."""
        refuse_hidden_gradients(self.name, trainer)
        refuse_place_after(trainer, self, WeightAligning)
        modules = dict(pl_module.named_modules())
        for layer in [self.head, *self.layers]:
            if layer not in modules:
                raise ValueError(f"{self.name}: there is no module {layer!r}; there are {', '.join(modules)}.")
        if not isinstance(modules[self.head], nn.Linear):
            raise ValueError(f"{self.name}: {self.head!r} is a {type(modules[self.head]).__name__}; name the Linear.")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Refuse data without classes of samples at their first batch, not after the epoch."""
        if batch_idx == 0:
            refuse_tokens(self.name, inputs_and_target(self.name, batch)[1])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        # Processes differ in how many batches give them their rows, and FSDP2's forward passes are of all at once.
        module: Any = unsharded_copy(pl_module) if is_sharded(pl_module) else pl_module
        taken, target = self._features(trainer, module, pl_module.device)
        head = module.get_submodule(self.head)

        def total(values: Tensor) -> Tensor:
            return sum_over_processes(trainer, values)

        if not bool(total(on_device(trainer, len(target)))):
            raise ValueError(
                f"{self.name}: no sample of the training data has a target; give data with targets, or leave this "
                "callback out."
            )
        found = neural_collapse(taken[None], target, head.weight, head.bias, limit=self.limit, total=total)
        for layer in self.layers:
            # NC1 alone doesn't use the weight.
            blank = torch.zeros(len(head.weight), taken[layer].shape[1], device=head.weight.device)
            found[f"nc1/{layer}"] = neural_collapse(taken[layer], target, blank, total=total)["nc1"]
        self.record(trainer, trainer.global_step, {name: value.item() for name, value in found.items()})

    def figure(self) -> Figure:
        """The measures over steps; the limit of each is 0."""
        return collapse_panels(self.steps, self.values)

    @torch.no_grad()
    def _features(
        self, trainer: L.Trainer, module: L.LightningModule, device: torch.device
    ) -> tuple[dict[str | None, Tensor], Tensor]:
        # None is the classifier's input; its output may be one of the layers.
        taken: dict[str | None, list[Tensor]] = {layer: [] for layer in [None, *self.layers]}
        targets: list[Tensor] = []
        ignored = ignored_targets(module, self.ignore_index)

        def keep(layer: str) -> Any:
            return lambda part, inputs, output: taken[layer].append(_rows(output))

        head = module.get_submodule(self.head)
        hooks = [head.register_forward_pre_hook(lambda part, inputs: taken[None].append(_rows(inputs[0])))]
        hooks += [module.get_submodule(layer).register_forward_hook(keep(layer)) for layer in self.layers]
        rows = 0
        try:
            with evaluating(module), torch.no_grad():
                for batch in trainer.train_dataloader or []:
                    inputs, target = with_target(*inputs_and_target(self.name, batch), *ignored)
                    if len(target) == 0:
                        continue
                    module(module.trainer.precision_plugin.convert_input(inputs.to(device)))
                    targets.append(class_indices(target).to(device))
                    rows += len(target)
                    if rows >= self.samples:
                        break
        finally:
            for hook in hooks:
                hook.remove()
        kept = {layer: _joined(parts, device)[: self.samples] for layer, parts in taken.items()}
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return kept, torch.cat([nothing, *targets])[: self.samples]


def _joined(parts: list[Tensor], device: torch.device) -> Tensor:
    """All rows; of a process without any, none of the others' width. Every process must ask at once."""
    width = maximum_of_all(torch.tensor(parts[0].shape[1] if parts else 0, device=device))
    return torch.cat(parts) if parts else torch.zeros(0, int(width), device=device)


def _rows(features: Tensor) -> Tensor:
    return features.detach().flatten(2).mean(dim=2) if features.ndim > 2 else features.detach()
