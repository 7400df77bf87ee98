"""Watches the Hessian of the loss: sharpness, trace and spectrum, compared with the edge of stability."""

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_losses.callbacks.access import on_device, sum_over_processes
from lightning_losses.callbacks.monitors.probe import ProbeMonitor
from lightning_losses.diagnostics.hessian_spectrum import Spectrum, hessian_product, hutchinson, lanczos
from lightning_losses.numerics.settings import Count
from lightning_losses.plots.grokking import spectrum_panels
from lightning_losses.plots.style import Figure


class HessianSpectrum(ProbeMonitor):
    """Logs the Hessian's largest and smallest eigenvalue and its trace on a probe, and 2 / learning rate.

    Gradient descent is stable along a direction while its curvature is below 2 / learning rate; in full-batch training
    the sharpness rises to that edge and stays there. At a global minimum where stochastic gradient descent is stable,
    the trace is below the edge too.

    Cost: `lanczos_steps` + `trace_probes` double backward passes of the probe, every n steps, and `lanczos_steps`
    vectors of the parameters' size.

    Args:
        lanczos_steps: number of Hessian products for the eigenvalues and the spectrum.
        trace_probes: number of Hessian products for the trace; its standard error is logged.
        loss: a function of (logits, target) that is a mean over rows; None is cross-entropy. The Hessian is that of the
            mean over the probe; the processes share its computation.
        seed: seed of the random vectors, which are the same at every measurement.
        samples, ignore_index, every_n_steps, folder: see `ProbeMonitor`.

    Raises:
        ValueError: numbers below 1.

    Source:
        Yao, Gholami, Keutzer, Mahoney, 2020, "PyHessian", arXiv:1912.07145 (which finds the eigenvalue of largest
        magnitude; this finds the largest one). The edge: Cohen, Kaur, Li, Kolter, Talwalkar, 2021, arXiv:2103.00065.
        The trace: Wu, Su, 2023, "The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent",
        arXiv:2305.17490.

    Example:
        >>> HessianSpectrum(every_n_steps=200, samples=64).samples
        64
    """

    name = "hessian"
    kept = (*ProbeMonitor.kept, "spectrum")

    lanczos_steps: Count = 20
    trace_probes: Count = 10
    loss: nn.Module | Callable[[Tensor, Tensor], Tensor] | None = None
    seed: int = 0
    spectrum: Spectrum | None = field(init=False, default=None)

    @property
    def takes_tokens(self) -> bool:
        """Whether a loss was given, which may take them."""
        return self.loss is not None

    def measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor
    ) -> dict[str, float]:
        """Eigenvalues and trace of the probe's mean loss; each process computes its share of the products."""
        if len(target) >= trainer.world_size:
            share_of_rows = slice(trainer.global_rank, None, trainer.world_size)
            inputs, target = inputs[share_of_rows], target[share_of_rows]
        parameters = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        count = sum_over_processes(trainer, on_device(trainer, float(len(target))))
        share = (len(target) / count).to(parameters[0].dtype)
        own = hessian_product((self.loss or F.cross_entropy)(pl_module(inputs), target) * share, parameters)
        size = sum(parameter.numel() for parameter in parameters)
        place = {"dtype": parameters[0].dtype, "device": parameters[0].device}

        def product(vector: Tensor) -> Tensor:
            return sum_over_processes(trainer, own(vector))

        generator = torch.Generator().manual_seed(self.seed)
        spectrum = lanczos(product, size, steps=self.lanczos_steps, generator=generator, **place)  # type: ignore[arg-type]
        trace, _ = hutchinson(product, size, probes=self.trace_probes, generator=generator, **place)  # type: ignore[arg-type]
        self.spectrum = spectrum
        learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        return {
            "largest": spectrum.values[-1].item(),
            "smallest": spectrum.values[0].item(),
            "trace": trace.value,
            "trace_error": trace.error,
            # A warm-up may begin at a learning rate of 0.
            "edge": 2 / learning_rate if learning_rate else math.inf,
        }

    def figure(self) -> Figure:
        """The eigenvalues and the edge over steps, and the last spectrum."""
        assert self.spectrum is not None
        return spectrum_panels(self.steps, self.values, self.spectrum.values.tolist(), self.spectrum.weights.tolist())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        super().load_state_dict(state_dict)
        self.spectrum = None if state_dict["spectrum"] is None else Spectrum(*state_dict["spectrum"])
