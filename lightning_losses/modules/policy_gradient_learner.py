"""A ready LightningModule that trains a language model by rewards of the completions that it samples."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from jaxtyping import Bool, Float, Int
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from lightning_losses.decoding.generate import generate
from lightning_losses.environment.lightning_internals import attached_trainer
from lightning_losses.kernels.cross_entropy.problem import Impl
from lightning_losses.mixins.policy_gradient import PolicyGradientMixin
from lightning_losses.modules.classifier import OptimizerFactory, SchedulerFactory, parameters_to_train, with_scheduler
from lightning_losses.networks.calls import call, logits_of
from lightning_losses.networks.weights import copy_weights
from lightning_losses.numerics.checks import check_choice, check_count, check_number
from lightning_losses.numerics.gae import gae, kl_shaped_reward
from lightning_losses.objective import Objective
from lightning_losses.parallel.processes import group_rank, values_on_first, world_size
from lightning_losses.parallel.sharding import is_sharded

Reward = Callable[[Int[Tensor, "batch time"], Bool[Tensor, "batch time"]], Float[Tensor, " batch"]]
"""Of tokens and the mask of what was sampled, the reward of each row; NaN where it can't be told."""


class PolicyGradientLearner(PolicyGradientMixin, L.LightningModule):
    """Samples completions of each batch's prompts, rewards them, and trains on them with any policy-gradient objective.

    Batches are mappings of `prompts`, [B, P] int64, and, where they differ, `prompt_lengths`, [B]. Each optimizer step
    samples `group_size` completions of each prompt, or takes those of the step before, until they were used `updates`
    times; batches that come meanwhile are passed over. Samples are drawn with `sampling_seed`, the number of batches
    sampled before, and the process, so that a resumed run draws the same; what was still to be used is in the
    checkpoint, of every process. Validation samples one completion of each prompt and logs
    ``val/reward``. A completion whose reward is NaN is left out.

    An objective that takes `values`, such as PPO's, gets a critic: a linear layer of the hidden states. Its advantages
    and `returns` are those of `gae`, of rewards at the last token less `kl_weight` times the KL to the reference at
    every token. Without a critic the KL to the reference, if `kl_weight` is above 0, is taken from the completion's
    reward.

    Args:
        teacher: the reference, frozen; None for objectives without a reference.
        network: the policy.
        objective: the objective to minimise.
        reward: a function of tokens, [B G, T], and the mask of what was sampled.
        group_size: G, the completions of a prompt.
        max_new_tokens: the longest completion.
        temperature: of sampling and of the log-probabilities, above 0.
        stop_token: ends a completion; None for none.
        updates: how many steps train on the same completions.
        kl_weight: the weight of the KL to the reference in the reward, at least 0.
        advantage: makes advantages of rewards, without a critic; `group_advantage` if None.
        start_from_reference: whether the policy begins with the reference's weights.
        sampling_seed: of the completions.
        optimizer: a function that makes the optimizer from the parameters; AdamW with its defaults if None.
        scheduler: a function that makes a learning-rate scheduler; it is stepped at every optimizer step.
        impl: the implementation of the fused losses.

    Raises:
        ValueError: options out of range; a KL, or a start, from a reference that isn't there.

    Example:
        >>> from lightning_losses.losses import GRPO
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network = Transformer(9, context_length=8, width=8, depth=1, heads=2)
        >>> model = PolicyGradientLearner(network=network, objective=Objective({"grpo": GRPO()}), group_size=2,
        ...                               reward=lambda tokens, mask: mask.sum(dim=1).float(), max_new_tokens=4)
        >>> model.training_step({"prompts": torch.tensor([[1, 2]])}, 0)["loss"].requires_grad
        True
    """

    logged_as = "{stage}/loss"

    def __init__(
        self,
        teacher: nn.Module | None = None,
        *,
        network: nn.Module,
        objective: Objective,
        reward: Reward,
        group_size: int = 8,
        max_new_tokens: int = 32,
        temperature: float = 1.0,
        stop_token: int | None = None,
        updates: int = 1,
        kl_weight: float = 0.0,
        advantage: Callable[[Tensor], Tensor] | None = None,
        start_from_reference: bool = False,
        sampling_seed: int = 0,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        impl: Impl = "auto",
    ) -> None:
        self.teacher = teacher
        super().__init__()
        owner = type(self).__name__
        check_choice(owner, "impl", impl, Impl)
        for name, count in (("group_size", group_size), ("max_new_tokens", max_new_tokens), ("updates", updates)):
            check_count(owner, name, count)
        check_number(owner, "temperature", temperature, above=0)
        check_number(owner, "kl_weight", kl_weight, least=0)
        if teacher is None and (kl_weight > 0 or start_from_reference):
            asked = f"kl_weight={kl_weight}" if kl_weight > 0 else "start_from_reference=True"
            raise ValueError(f"{owner}: {asked} came without a teacher; give the reference.")
        self.network, self.objective, self.reward, self.record_impl = network, objective, reward, impl
        self.group_size, self.max_new_tokens, self.stop_token = group_size, max_new_tokens, stop_token
        self.record_temperature, self.updates, self.kl_weight = temperature, updates, kl_weight
        self.advantage, self.sampling_seed = advantage, sampling_seed
        self.make_optimizer: OptimizerFactory = optimizer or torch.optim.AdamW
        self.make_scheduler = scheduler
        if objective.needs("values"):
            self.value_head = nn.Linear(self.head_parameters(torch.float32)[0].shape[1], 1)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        # What an optimizer step trains on, batch by batch; how many batches were trained on since it was sampled; and
        # how many were ever sampled.
        self._samples: list[dict[str, Tensor]] = []
        self._used, self._drawn = 0, 0
        if start_from_reference and teacher is not None:
            copy_weights(owner, teacher, network)

    def forward(self, inputs: Any, **further: Any) -> Float[Tensor, "batch tokens vocabulary"]:
        """The logits."""
        return logits_of(type(self).__name__, call(self.network, inputs, **further))

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """Sample if it is time, and the objective of the samples."""
        trainer = attached_trainer(self)
        batches = 1 if trainer is None else trainer.accumulate_grad_batches
        if self._used == batches * self.updates:
            self._samples, self._used = [], 0
        if self._used < batches:
            drawn = self.sample(batch, self.group_size, self._drawn)
            self._samples.append(drawn | self.judged(drawn))
            self._drawn += 1
        samples = self._samples[self._used % len(self._samples)]
        self._used += 1
        return self.policy_step({name: value.to(self.device) for name, value in samples.items()})

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """The reward of one completion of each prompt."""
        return self._evaluate(batch, batch_idx)

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """The same on test data."""
        return self._evaluate(batch, batch_idx)

    @torch.no_grad()
    def sample(self, batch: Mapping[str, Tensor], group_size: int, step: int) -> dict[str, Tensor]:
        """Completions of a batch's prompts with their rewards, as a batch of `policy_step`.

        Args:
            batch: `prompts`, and `prompt_lengths` where they differ.
            group_size: completions of each prompt, one after the other.
            step: with `sampling_seed` and the process it decides what is drawn; validation counts from -1 down.

        Raises:
            ValueError: a batch without prompts, or rewards of another shape.
        """
        owner = type(self).__name__
        if not isinstance(batch, Mapping) or "prompts" not in batch:
            came = sorted(map(str, batch)) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise ValueError(f"{owner}: {came} came as a batch; give a mapping with 'prompts', [B, P] int64.")
        prompts = batch["prompts"].repeat_interleave(group_size, dim=0)
        lengths = batch.get("prompt_lengths")
        # A hash, so that no two steps or processes share a stream.
        text = f"{self.sampling_seed} {step} {group_rank()}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        # A part of sharded weights is gathered where the module is called.
        caller: nn.Module = self if is_sharded(self) else self.network
        drawn = generate(
            caller,
            prompts,
            self.max_new_tokens,
            prompt_lengths=None if lengths is None else lengths.repeat_interleave(group_size),
            temperature=self.record_temperature,
            stop_token=self.stop_token,
            generator=torch.Generator().manual_seed(seed % 2**63),
        )
        rewards = self.reward(drawn.tokens, drawn.completion_mask)
        if not isinstance(rewards, Tensor) or rewards.shape[:1] != drawn.tokens.shape[:1]:
            kind = f"shape {list(rewards.shape)}" if isinstance(rewards, Tensor) else f"a {type(rewards).__name__}"
            raise ValueError(f"{owner}: rewards of {kind} came for {len(drawn.tokens)} completions; give one for each.")
        kept = drawn.completion_mask[:, 1:]
        return {
            "inputs": drawn.tokens[:, :-1],
            "target": drawn.tokens[:, 1:].masked_fill(~kept, self.ignore_index),
            "rewards": rewards.to(drawn.logps),
            "old_logps": drawn.sampling_logps[:, 1:],
        }

    @torch.no_grad()
    def judged(self, samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the reference and a critic say of samples before the update: their log-probabilities, advantages, ..."""
        rewards, target = samples["rewards"], samples["target"]
        if rewards.ndim > 1 and (self.kl_weight > 0 or self.critic is not None):
            raise ValueError(
                f"{type(self).__name__}: rewards of shape {list(rewards.shape)} came with a KL in the reward or a "
                "critic; give one reward for each completion, the sum of several functions' for example."
            )
        # Without a reward there is nothing to learn from a completion.
        unknown = rewards.isnan() if rewards.ndim == 1 else rewards.isnan().all(dim=1)
        target = target.masked_fill(unknown.unsqueeze(1), self.ignore_index)
        kept = target != self.ignore_index
        given = self.split_batch({"inputs": samples["inputs"], "target": target})
        further: dict[str, Tensor] = {"target": target}
        kl = torch.zeros_like(samples["old_logps"])
        if self.teacher is not None and (self.kl_weight > 0 or self.takes("ref_logps")):
            further["ref_logps"] = self.reference_record(given).logps
            kl = (samples["old_logps"] - further["ref_logps"]).masked_fill(~kept, 0.0)
        if self.critic is None:
            if self.kl_weight > 0:
                further["advantages"] = self.advantages_of(rewards - self.kl_weight * kl.sum(dim=1))
            return further
        hidden = self.hidden_states(given.inputs, **given.further)
        values = self.values_of(hidden, kept)
        shaped = kl_shaped_reward(rewards.nan_to_num(), kl, kept, kl_coef=self.kl_weight)
        advantages, returns = gae(shaped, values, kept)
        return further | {"advantages": advantages, "returns": returns, "old_values": values}

    def _evaluate(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Any]:
        samples = self.sample(batch, 1, -1 - batch_idx)
        rewards = samples["rewards"]
        self.log_beside({"reward": rewards.nanmean()}, len(rewards))
        return {"rewards": rewards}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the samples that are still to be trained on."""
        super().on_save_checkpoint(checkpoint)
        samples = move_data_to_device(self._samples, "cpu")
        checkpoint["policy_gradient_samples"] = {
            "of_processes": values_on_first(samples), "used": self._used, "drawn": self._drawn
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the samples of the interrupted run; another number of processes draws anew."""
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint.get("policy_gradient_samples", {"of_processes": [], "used": 0, "drawn": 0})
        self._drawn = int(kept["drawn"])
        same = len(kept["of_processes"]) == world_size()
        self._samples = list(kept["of_processes"][group_rank()]) if same else []
        self._used = int(kept["used"]) if same else 0

    def configure_optimizers(self) -> Any:
        """One optimizer for the policy and its critic."""
        return with_scheduler(self.make_optimizer(parameters_to_train(self, self.objective)), self.make_scheduler)
