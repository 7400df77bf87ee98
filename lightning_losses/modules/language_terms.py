"""The terms of a language model's objective, each evaluated without the logits."""

import copy
from typing import Any

import torch
from torch import Tensor

from lightning_losses.data.language_batch import LanguageBatch, document_numbers, further_targets
from lightning_losses.kernels.chunked_head import chunked_head
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.linear_emo import linear_emo
from lightning_losses.kernels.linear_noisefit import linear_noisefit
from lightning_losses.losses import EMO, AttentionEntropyRegularizer, CrossEntropy, NoiseFiT
from lightning_losses.mixins.language_head import LanguageHeadMixin
from lightning_losses.mixins.noisy_passes import NoisyPassesMixin
from lightning_losses.networks.attention_calls import attention_maps
from lightning_losses.networks.multi_token import multi_token_heads
from lightning_losses.objective import Term

# What some losses take beside logits and target, which the step makes of its hidden states, head and passes.
FURTHER_TENSORS: dict[type, tuple[str, ...]] = {
    EMO: ("cost_embedding",),
    NoiseFiT: ("noisy_logits", "noisy_logits_b"),
    AttentionEntropyRegularizer: ("attentions", "attention_mask"),
}
# What the heads of further tokens can be trained with.
_OF_EVERY_HEAD = {"logits", "target", "cost_embedding"}


class LanguageTerms(LanguageHeadMixin, NoisyPassesMixin):
    """Evaluates the terms of a language model's objective from the hidden states of a step, and its further passes.

    `LanguageModel` has the rest of the step.
    """

    ignore_index: int
    # How the module splits a batch.
    _given: Any

    def further_tensors(self, term: Term) -> tuple[str, ...]:
        """The names of what a term's loss may take beside logits and target."""
        return next((names for kind, names in FURTHER_TENSORS.items() if isinstance(term.loss, kind)), ())

    def run_network(self, batch: Any, given: LanguageBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The hidden states of the next token; if more are predicted, also those of every token with their targets.

        Attention weights are recorded if a term takes them.
        """
        heads = multi_token_heads(self.network)
        if heads is None:
            return self._run_network(given), {}
        with heads.recording():
            hidden = self._run_network(given)
        states = torch.stack([hidden, *heads.further_hidden(hidden)])
        numbers = document_numbers(batch, given)
        targets = further_targets(given.target, len(states), self.ignore_index, numbers)
        return hidden, {"hidden": states, "target": targets}

    def term_loss(self, term: Term, batch: Any, head: dict[str, Any], options: dict[str, Any]) -> Tensor:
        """One term of the objective, without its logits.

        Args:
            term: the term.
            batch: the batch of `training_step`.
            head: `hidden`, `weight`, `target` and `bias` arguments of the fused losses; `target` is None for a term
                without target.
            options: `ignore_index`, `normalizer`, `softcap` and `impl` of the fused losses.
        """
        loss: Any = term.loss
        if isinstance(loss, CrossEntropy):
            return linear_cross_entropy(**head, **options, label_smoothing=loss.label_smoothing)
        if isinstance(loss, EMO):
            return linear_emo(loss, **head, **options, reduction="mean")
        if isinstance(loss, NoiseFiT):
            fused = {name: options[name] for name in ("ignore_index", "normalizer", "softcap")}
            noisy, noisy_b = (self._noisy_hidden(batch) for _ in range(2))
            return linear_noisefit(loss, **head, noisy_hidden=noisy, noisy_hidden_b=noisy_b, **fused, reduction="mean")
        if isinstance(loss, AttentionEntropyRegularizer):
            # Of every token that counts, whatever their number in a row.
            kept, of_row = head["target"] != options["ignore_index"], copy.copy(loss)
            of_row.reduction = "none"
            total: Tensor = (of_row(self.__dict__["_attentions"], kept) * kept.sum(dim=-1)).sum()
            return total / options["normalizer"]
        return chunked_head(loss, **head, **options, reduction="mean")

    def head_of_term(self, term: Term, head: dict[str, Any], every: dict[str, Tensor]) -> dict[str, Any]:
        """The hidden states and target of a term: of every predicted token, where it can be, or of the next one."""
        if term.leaves_out("target"):
            return {**head, "target": None}
        return {**head, **every} if set(term.needs) <= _OF_EVERY_HEAD else head

    def _run_network(self, given: LanguageBatch) -> Tensor:
        self.__dict__["_attentions"] = None
        if not self.objective.needs("attentions"):
            hidden: Tensor = self(given.inputs, **given.further)
            return hidden
        with attention_maps(self.network) as maps:  # type: ignore[arg-type]
            hidden = self(given.inputs, **given.further)
        if not maps:
            raise ValueError(
                f"{type(self).__name__}: the objective takes attention weights, but {type(self.network).__name__} "
                "calls no scaled_dot_product_attention; use a network that does, such as a Transformer with "
                "attention='softmax'."
            )
        attentions = torch.stack(list(maps.values()), dim=1)
        if hidden.requires_grad and not attentions.requires_grad:
            raise ValueError(
                f"{type(self).__name__}: the attention weights of {type(self.network).__name__} have no gradient, as "
                "where layers are frozen or checkpointed (use_reentrant=True); train them without checkpointing, or "
                "leave out the term that takes attention weights."
            )
        self.__dict__["_attentions"] = attentions
        return hidden

    def _noisy_hidden(self, batch: Any) -> Tensor:
        given = self._given(self.network, self.find_head(), batch)
        with self.noisy_pass():
            hidden: Tensor = self(given.inputs, **given.further)
        return hidden
