"""Watches alignment and uniformity of the embeddings of two views during training."""

import warnings
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import lightning as L
import torch

from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.metrics.alignment_uniformity import alignment, uniformity
from lightning_losses.numerics.settings import Bound, Positive
from lightning_losses.parallel.processes import rows_of_all
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class AlignmentUniformity(Monitor):
    """Logs how near the embeddings of two views of a sample lie, and how evenly all of them cover the sphere.

    The step must return ``{"embeddings", "embeddings_b", ...}``, as modules with two views do; no forward pass is
    added. It measures the first batch of a step, with those of all processes.

    Cost: the pairs of a batch, in tiles, every n steps.

    Args:
        power: of the distances of alignment, at least 1.
        t: of uniformity, above 0.
        every_n_steps, folder: see `Monitor`.

    Warns:
        UserWarning: a step that returns no embeddings of two views, as the supervised network has beside which another
            is compared; nothing is measured of it.

    Source:
        Wang, Isola, 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere", arXiv:2005.10242.

    Example:
        >>> AlignmentUniformity(every_n_steps=50).t
        2.0
    """

    name = "alignment_uniformity"

    power: Annotated[float, Bound(least=1)] = 2.0
    t: Positive = 2.0
    _step: int = field(init=False, default=0)
    _warned: bool = field(init=False, default=False)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the step of the weights that produce the embeddings."""
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure when due."""
        if not self.due(self._step):
            return
        if not isinstance(outputs, Mapping) or not {"embeddings", "embeddings_b"} <= set(outputs):
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{self.name}: the training step returned no 'embeddings' and 'embeddings_b', so that nothing is "
                    "measured; return them, of two views of the same samples, beside the loss.",
                    stacklevel=2,
                )
            return
        first, second = (torch.cat(rows_of_all(outputs[name].double())) for name in ("embeddings", "embeddings_b"))
        if len(first) >= 2:
            near, even = alignment(first, second, power=self.power), uniformity(first, t=self.t)
            self.record(trainer, self._step, {"alignment": near.item(), "uniformity": even.item()})

    def figure(self) -> Figure:
        """Both over steps; lower is better."""
        return value_curves(self.curves(), ylabel="value")
