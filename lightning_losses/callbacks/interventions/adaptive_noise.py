"""Chooses the layers whose outputs get noise in the passes of NoiseFiT."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal

import lightning as L
import torch

from lightning_losses.callbacks.access import evaluation_mode, on_device, sum_over_processes
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.callbacks.monitors.probe import inputs_and_target
from lightning_losses.networks.noise_injection import NoiseInjection
from lightning_losses.networks.transformer_blocks import transformer_blocks
from lightning_losses.numerics.settings import Count, NonNegative, Share
from lightning_losses.teachers.feature_taps import FeatureTap


class AdaptiveNoise(DeclaredCallback):
    """Chooses the layers whose outputs get noise in the passes of `NoiseFiT`, and sets the module's `noise_injection`.

    Before the first step the module runs on the first training batch, in evaluation mode. A layer's signal-to-noise
    ratio is the mean size of its output over the mean size of the noise that it would get, averaged over draws and
    processes; the layers with the largest ratios are chosen, once. They are kept in the checkpoint.

    Args:
        layers: the names of the layers in the module; None chooses among the blocks of the transformer.
        number: how many are chosen, at least 1; of fewer blocks all are.
        ratio: "largest" or "smallest".
        noise_std: σ, at least 0; the noise has σ² times the standard deviation of the layer's output.
        beta: as in `adaptive_noise`.
        gate: as in `adaptive_noise`.
        draws: of noise for the ratios.

    Attributes:
        chosen: the names of the chosen layers.

    Raises:
        ValueError: settings out of range; layers that the module doesn't have; a module without a list of blocks.

    Source:
        Khadangi, Sartipi, Tchappi, Bahmani, 2025, arXiv:2504.03302, and akhadangi/NoiseFiT, whose defaults these are.

    Example:
        >>> AdaptiveNoise(layers=["network.blocks.1"]).noise_std
        0.1
    """

    name = "adaptive_noise"
    kept = ("chosen",)

    layers: Sequence[str] | None = None
    number: Count = 3
    ratio: Literal["largest", "smallest"] = "largest"
    noise_std: NonNegative = 0.1
    beta: NonNegative = 0.1
    gate: Share = 1.0
    draws: Count = 10
    chosen: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layers, str):
            raise ValueError(f"{self.name}: layers={self.layers!r} came; give a list of module names.")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Choose the layers before the first step."""
        module: Any = pl_module
        if getattr(module, "noise_injection", None) is not None:
            return
        if not self.chosen:
            self.chosen = list(self.layers or self._by_ratio(trainer, pl_module, batch))
        parts = dict(pl_module.named_modules())
        if missing := [name for name in self.chosen if name not in parts]:
            raise ValueError(
                f"{self.name}: {missing} came, but {type(pl_module).__name__} has no such layers; give names of "
                "its named_modules()."
            )
        module.noise_injection = self._injection({name: parts[name] for name in self.chosen})

    def before_rehearsal(self, module: Any) -> None:
        """Let a step be rehearsed, before any batch chose layers, with noise in those that were named or come first."""
        parts = dict(module.named_modules())
        names = list(self.layers or list(transformer_blocks(self.name, module))[: self.number])
        module.noise_injection = self._injection({name: parts[name] for name in names if name in parts})

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the module without noise."""
        vars(pl_module).pop("noise_injection", None)

    def _injection(self, layers: Mapping[str, torch.nn.Module]) -> NoiseInjection:
        return NoiseInjection(layers, self.noise_std, self.beta, self.gate)

    @torch.no_grad()
    def _by_ratio(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any) -> list[str]:
        names = list(transformer_blocks(self.name, pl_module))
        if isinstance(batch, Mapping) and "labels" in batch and "target" not in batch:
            inputs: Any = {name: value for name, value in batch.items() if name != "labels"}
        else:
            inputs, _ = inputs_and_target(self.name, batch)
        with FeatureTap(pl_module, names, self.name) as tap, evaluation_mode(pl_module):
            pl_module(inputs)
            outputs = tap.latest()
        ratios = []
        for output in outputs.values():
            hidden = output[0] if isinstance(output, tuple) else output
            noise = torch.stack([self._injection({}).noise(hidden, power=1).abs().mean() for _ in range(self.draws)])
            ratios.append(hidden.abs().float().mean() / (noise.mean() + 1e-6))
        total = sum_over_processes(trainer, on_device(trainer, torch.stack(ratios)))
        best = total.topk(min(self.number, len(names)), largest=self.ratio == "largest").indices
        return [names[place] for place in sorted(best.tolist())]
