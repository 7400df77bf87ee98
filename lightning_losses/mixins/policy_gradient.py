"""The mixin that trains a language model by policy gradients: sampled completions with rewards or advantages."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_losses.mixins.token_records import TokenRecordsMixin
from lightning_losses.numerics.group_advantage import group_advantage
from lightning_losses.numerics.token_sequences import token_sum
from lightning_losses.parallel.processes import group_rank, rows_of_all
from lightning_losses.teachers import CachedLogits
from lightning_losses.teachers.reference_records import Wanted

# What a batch may bring, under the glossary's names.
_BROUGHT = ("old_logps", "ref_logps", "sampling_ratio", "old_values", "returns")


class PolicyGradientMixin(TokenRecordsMixin):
    """Trains a language model by policy gradients, without its logits.

    Return ``self.policy_step(batch)`` from `training_step`. A batch is a mapping that is a batch of text, as
    `language_batch` takes it: `inputs` and `target` with `ignore_index` at the prompt and the padding, or what a
    collator of transformers gives; and beside that `advantages`, [B] or [B, T], or `rewards`, [B] or [B, K] of K reward
    functions, of which `advantage` makes advantages from those of all processes. It may bring `old_logps`,
    `ref_logps`, `sampling_ratio`, `old_values` and `returns`, [B, T] each, at the places of `target`. Without
    `old_logps` the step is taken for on-policy. The rows of a prompt follow each other, and are on one process or on
    neighbours.

    Losses are fed `logps`, `completion_mask` and `advantages`, and what else they take: `entropies`, `ref_logps` from
    the reference (see `TokenRecordsMixin`) unless the batch has them, `values` from `self.value_head`, a layer of the
    hidden states. A mean over tokens is one over the tokens of the whole optimizer step, of all processes and
    accumulated batches, as DAPO has it.

    Training and validation log, beside the objective, ``<stage>/reward``, ``<stage>/completion_length`` and, if there
    is a reference or `old_logps`, ``<stage>/kl_reference`` and ``<stage>/kl_old``: the mean over completions of
    ``sum_t log p - log q``, in nats.

    Attributes:
        group_size: completions of a prompt.
        advantage: a function of the rewards of all processes; `group_advantage` of `group_size` if None.
        value_head: a layer that makes a value of each hidden state; unset without a critic.

    Example:
        >>> import lightning
        >>> from lightning_losses import Objective
        >>> from lightning_losses.losses import GRPO
        >>> from lightning_losses.networks.transformer import Transformer
        >>> class Model(PolicyGradientMixin, lightning.LightningModule):
        ...     group_size = 2
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = Transformer(9, 8, width=8, depth=1, heads=2)
        ...         self.objective = Objective({"grpo": GRPO()})
        ...     def training_step(self, batch, batch_idx):
        ...         return self.policy_step(batch)
        >>> rows = torch.arange(18).reshape(2, 9) % 9
        >>> batch = {"inputs": rows[:, :8], "target": rows[:, 1:], "rewards": torch.tensor([1.0, 0.0])}
        >>> round(Model().training_step(batch, 0)["loss"].item(), 4)  # on-policy, it is minus the mean advantage
        0.0
    """

    group_size: int = 1
    advantage: Callable[[Tensor], Tensor] | None = None
    # Without a default, which would hide the layer.
    value_head: nn.Module

    def policy_step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The objective of a batch of completions, and the step's output.

        Raises:
            ValueError: a batch without advantages and rewards, or a term that takes a tensor which it can't give.
        """
        tensors = self.policy_tensors(batch)
        output = self.apply_objective(**tensors)
        self._log_policy(batch, tensors)
        return output

    def policy_tensors(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the objective takes of a batch, under the glossary's names."""
        if not isinstance(batch, Mapping) or not {"advantages", "rewards"} & batch.keys():
            came = sorted(map(str, batch)) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise ValueError(
                f"{type(self).__name__}: {came} came as a batch; give a mapping with 'advantages' or 'rewards'."
            )
        beside = {"advantages", "rewards", "index", *_BROUGHT}
        given = self.split_batch({name: value for name, value in batch.items() if name not in beside})
        hidden = self.hidden_states(given.inputs, **given.further)
        record = self.record_of(hidden, given.target, Wanted(entropies=self.takes("entropies")))
        tensors: dict[str, Any] = {"logps": record.logps, "completion_mask": record.kept}
        tensors["advantages"] = batch["advantages"] if "advantages" in batch else self.advantages_of(batch["rewards"])
        tensors |= {name: batch[name] for name in _BROUGHT if name in batch and self.objective.needs(name)}
        if record.entropies is not None:
            tensors["entropies"] = record.entropies
        if "ref_logps" not in batch and self.takes("ref_logps"):
            if isinstance(self.teacher, CachedLogits):
                (tensors["ref_logps"],) = self.cached_reference(batch, [given.target.shape[1]])
            else:
                tensors["ref_logps"] = self.reference_record(given).logps
        if self.objective.needs("values") and self.critic is not None:
            tensors["values"] = self.values_of(hidden, record.kept)
        return tensors

    @property
    def critic(self) -> nn.Module | None:
        """The value head, if there is one."""
        critic: nn.Module | None = getattr(self, "value_head", None)
        return critic

    def values_of(
        self, hidden: Float[Tensor, "batch tokens d"], kept: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens"]:
        """What the value head says of each hidden state; 0 where nothing counts."""
        # As rows: a linear layer's output of three dimensions is a view, at which FSDP2 warns.
        return self.value_head(hidden.flatten(0, 1)).view(kept.shape).masked_fill(~kept, 0.0)

    @torch.no_grad()
    def advantages_of(self, rewards: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """This process's advantages from the rewards of all processes."""
        parts = rows_of_all(rewards)
        function = self.advantage or partial(group_advantage, group_size=self.group_size)
        return torch.split(function(torch.cat(parts)), [len(part) for part in parts])[group_rank()]

    @torch.no_grad()
    def _log_policy(self, batch: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        """Log what the completions show of the policy beside the loss."""
        kept = tensors["completion_mask"]
        values = {"completion_length": kept.sum(dim=1).float().mean()}
        if "rewards" in batch:
            values["reward"] = batch["rewards"].float().nanmean()
        for name, reference in (("kl_reference", "ref_logps"), ("kl_old", "old_logps")):
            other = tensors.get(reference, batch.get(reference))
            if other is not None:
                values[name] = token_sum(tensors["logps"] - other, kept).mean()
        self.log_beside(values, len(kept))
