"""Samples weights from their posterior: SGD with a cyclical learning rate and noise at the end of each cycle."""

import math
from collections.abc import Iterable
from dataclasses import field
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import SubsetRandomSampler
from torch.utils.hooks import RemovableHandle

from lightning_losses.callbacks.access import refuse_hidden_gradients
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.numerics.counter_random import counter_normals
from lightning_losses.numerics.settings import Count, NonNegative, Seed, Share
from lightning_losses.parallel.sharding import local_part, shard_like, whole
from lightning_losses.teachers.ensemble import Average, TeacherEnsemble
from lightning_losses.teachers.weight_samples import submodule, weight_ensemble


class CyclicalSGMCMC(DeclaredCallback):
    """Turns SGD into a sampler: the learning rate falls in cycles, noise joins late in each, and its end is kept.

    ``η_t = η_0 / 2 (cos(π r) + 1)`` with r the share of the cycle that is done, in each of M cycles over the T steps.
    While ``r >= 1 - sampling_share``, noise of variance ``2 a η_t temperature / samples`` is added to each step, where
    ``a = 1 - momentum``: stochastic gradient Langevin dynamics without momentum, Hamiltonian Monte Carlo with it. Its
    loss is a mean over samples; the posterior is that of their sum. Weight decay is a Gaussian prior.

    Noise is a function of seed and step: the same on all processes and after a resume. A step that AMP skips has none.
    The state is a copy of the weights and buffers for each cycle, on the host and in the checkpoint.

    Args:
        cycles: M, at least 1; at most the number of steps.
        temperature: at least 0; 1 is the posterior, and 0 SGD with this schedule.
        sampling_share: the share of each cycle, at its end, that has noise.
        samples: the training samples that the loss is a mean of; None counts those of the training loader's data set,
            or of the subset that its sampler draws from.
        seed: of the noise.
        part: the name of the module's part that is kept; an empty one is the whole module.

    Attributes:
        kept_weights: of each cycle that ended, by the part's own names.

    Raises:
        ValueError: settings out of range; an optimizer other than SGD, or with Nesterov's momentum, dampening or
            maximize; several optimizers, or groups added during training; a learning-rate scheduler; an unknown number
            of steps or samples; FSDP1 or DeepSpeed.

    Source:
        Zhang, Li, Zhang, Chen, Wilson, 2020, "Cyclical Stochastic Gradient MCMC for Bayesian Deep Learning",
        arXiv:1902.03932. In its momentum the learning rate of each gradient stays that of its step; torch's SGD has the
        step's own for all, which differs by how much the rate falls within the memory of the momentum. Where a cycle
        begins, and there is a temperature, the velocity stays what it was, as in the paper.

    Example:
        >>> CyclicalSGMCMC(cycles=2).learning_rate(0.1, step=3, steps=8)
        0.014644660940672627
    """

    name = "cyclical_sgmcmc"
    kept = ("kept_weights", "_rates")

    cycles: Count = 4
    temperature: NonNegative = 1.0
    sampling_share: Share = 0.2
    samples: Count | None = None
    seed: Seed = 0
    part: str = "network"
    kept_weights: list[dict[str, Tensor]] = field(init=False, default_factory=list)
    _rates: list[float] = field(init=False, default_factory=list)
    _steps_before: int = field(init=False, default=0)
    _handles: list[RemovableHandle] = field(init=False, default_factory=list)

    def learning_rate(self, first: float, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of so many."""
        return first / 2 * (math.cos(math.pi * self._done(step, steps)) + 1)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what is no plain SGD, and hook into its steps."""
        refuse_hidden_gradients(self.name, trainer)
        submodule(self.name, pl_module, self.part)
        if len(trainer.optimizers) != 1:
            raise ValueError(f"{self.name}: {len(trainer.optimizers)} optimizers came; give one, of all parameters.")
        (optimizer,) = trainer.optimizers
        _refuse_other_than_sgd(self.name, optimizer)
        steps, samples = self._steps(trainer), self._samples(trainer)
        if trainer.lr_scheduler_configs:
            raise ValueError(
                f"{self.name}: a learning-rate scheduler came, and it sets the rates itself; leave it out."
            )
        if trainer.global_step == 0:
            # An earlier training's.
            self.kept_weights, self._rates = [], []
        # A resumed optimizer has the rates of its last step.
        self._rates = self._rates or [float(group["lr"]) for group in optimizer.param_groups]

        def after_step(optimizer: Optimizer, *arguments: Any) -> None:
            self._after_step(optimizer, trainer.global_step, steps, samples)

        self._handles.append(optimizer.register_step_post_hook(after_step))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Set the step's learning rates."""
        if len(optimizer.param_groups) != len(self._rates):
            raise ValueError(
                f"{self.name}: the optimizer has {len(optimizer.param_groups)} groups of parameters, and began with "
                f"{len(self._rates)}; give it all when training begins."
            )
        for group, first in zip(optimizer.param_groups, self._rates, strict=True):
            before, group["lr"] = group["lr"], self.learning_rate(first, trainer.global_step, self._steps(trainer))
            if self.temperature == 0 or group["lr"] <= before:
                continue
            # The velocity is torch's buffer times minus the rate, which is far larger where a cycle begins.
            for weight in group["params"]:
                if (velocity := optimizer.state.get(weight, {}).get("momentum_buffer")) is not None:
                    local_part(velocity).mul_(before / group["lr"])

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note how many steps there were."""
        self._steps_before = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the weights where a cycle ends, also with a step that AMP skips."""
        steps = self._steps(trainer)
        if trainer.global_step * self.cycles // steps > self._steps_before * self.cycles // steps:
            state = submodule(self.name, pl_module, self.part).state_dict()
            self.kept_weights.append(
                {
                    name: whole(value.detach()).cpu().clone()
                    for name, value in state.items()
                    if isinstance(value, Tensor)
                }
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove the hooks from the optimizer."""
        while self._handles:
            self._handles.pop().remove()

    def ensemble(
        self, network: nn.Module, batches: Iterable[Any] | None = None, *, average: Average = "probabilities"
    ) -> TeacherEnsemble:
        """Copies of the network at the kept weights, whose probabilities are averaged.

        Args:
            network: the part; it stays as it is.
            batches: of training, for BatchNorm's statistics anew; None takes those that were kept with the weights.
            average: "logits" for the mean of outputs that are no classes, such as a regression's.

        Raises:
            ValueError: no cycle has ended; weights of another network, or no finite numbers; no batch.
        """
        return weight_ensemble(self.name, network, self.kept_weights, batches, average)

    def _done(self, step: int, steps: int) -> float:
        """The share of its cycle that is done before a step."""
        return step * self.cycles % steps / steps

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, step: int, steps: int, samples: int) -> None:
        """Add the noise of a step, to the weights and to their velocity."""
        if self.temperature == 0 or self._done(step, steps) < 1 - self.sampling_share:
            return
        # A fused optimizer is called also for a step that AMP skips.
        skipped = getattr(optimizer, "found_inf", None)
        number = 0
        for group in optimizer.param_groups:
            size = math.sqrt(2 * (1 - group["momentum"]) * group["lr"] * self.temperature / samples)
            for weight in group["params"]:
                number += 1
                if weight.grad is None or size == 0:
                    continue
                # Half precision has too few numbers for the tails.
                wide = torch.promote_types(weight.dtype, torch.float32)
                like = torch.empty(weight.shape, dtype=wide, device=weight.device)
                normals = counter_normals(like, self.seed * 65_537 + number, step)
                noise = local_part(shard_like(size * normals, weight))
                if skipped is not None:
                    noise = noise * (skipped == 0)
                local_part(weight).add_(noise)
                if (velocity := optimizer.state[weight].get("momentum_buffer")) is not None:
                    # torch's buffer times minus the learning rate is the velocity.
                    local_part(velocity).sub_(noise / group["lr"])

    def _steps(self, trainer: L.Trainer) -> int:
        steps = trainer.estimated_stepping_batches
        if not self.cycles <= steps < math.inf:
            raise ValueError(f"{self.name}: {steps} steps came for {self.cycles} cycles; give max_epochs or max_steps.")
        return int(steps)

    def _samples(self, trainer: L.Trainer) -> int:
        if self.samples is not None or self.temperature == 0:
            return self.samples or 1
        loader: Any = trainer.train_dataloader
        try:
            # Items of a data set that are batches already have no known size.
            if loader.batch_sampler is not None:
                return len(
                    loader.sampler.indices if isinstance(loader.sampler, SubsetRandomSampler) else loader.dataset
                )
        except (AttributeError, TypeError):
            pass
        raise ValueError(f"{self.name}: the training loader doesn't tell its samples; give samples=.")


def _refuse_other_than_sgd(who: str, optimizer: Optimizer) -> None:
    """Raise ``ValueError`` for an optimizer whose steps with noise would not sample."""
    if not isinstance(optimizer, SGD):
        raise ValueError(f"{who}: {type(optimizer).__name__} came, whose steps don't sample; use torch.optim.SGD.")
    for group in optimizer.param_groups:
        if group["nesterov"] or group["dampening"] or group["maximize"]:
            raise ValueError(f"{who}: SGD with nesterov, dampening or maximize came; use plain momentum, or none.")
