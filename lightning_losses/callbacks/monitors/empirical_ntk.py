"""Watches the tangent kernel: its distance from the start and its alignment with the labels."""

from dataclasses import field

import lightning as L
import torch.nn.functional as F
from torch import Tensor

from lightning_losses.callbacks.monitors.probe import ProbeMonitor
from lightning_losses.diagnostics.empirical_ntk import trace_ntk
from lightning_losses.diagnostics.kernel_similarity import effective_rank, kernel_distance, label_alignment
from lightning_losses.plots.grokking import side_by_side
from lightning_losses.plots.style import Figure


class EmpiricalNTK(ProbeMonitor):
    """Logs the empirical tangent kernel's distance from its start, alignment with the labels, and effective rank.

    Lazy training leaves the kernel unchanged; rich training aligns it with the labels. The kernel is summed over
    outputs, in evaluation mode, on a fixed probe.

    Cost: `samples` times outputs backward passes, vectorised, every n steps, and that many gradients in memory.

    Args:
        samples, ignore_index, every_n_steps, folder: see `ProbeMonitor`; use a few dozen samples.

    Raises:
        ValueError: numbers below 1.

    Source:
        Kumar, Bordelon, Gershman, Pehlevan, 2023, "Grokking as the Transition from Lazy to Rich Training Dynamics",
        arXiv:2310.06110.

    Example:
        >>> EmpiricalNTK(samples=32).name
        'ntk'
    """

    name = "ntk"
    samples = 64
    kept = (*ProbeMonitor.kept, "start")

    start: Tensor | None = field(init=False, default=None)

    def measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor
    ) -> dict[str, float]:
        """The kernel of the probe, compared with its start and the labels."""
        kernel = trace_ntk(pl_module, inputs).detach()
        if self.start is None:
            self.start = kernel
        labels = target.reshape(len(target), -1) if target.is_floating_point() else F.one_hot(target)
        return {
            "distance": kernel_distance(kernel, self.start.to(kernel)).item(),
            "alignment": label_alignment(kernel, labels.to(kernel)).item(),
            "effective_rank": effective_rank(kernel).item(),
        }

    def figure(self) -> Figure:
        """Distance, alignment and rank over steps."""
        titles = {
            "distance": "distance from the start",
            "alignment": "alignment with the labels",
            "effective_rank": "effective rank",
        }
        return side_by_side({title: (self.steps, self.values[name]) for name, title in titles.items()})
