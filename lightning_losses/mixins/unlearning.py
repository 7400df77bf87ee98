"""The mixin that has a language model forget some texts and keep what it knows of others."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.data.language_batch import LanguageBatch
from lightning_losses.mixins.token_records import TokenRecordsMixin
from lightning_losses.networks.calls import call, logits_of
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.teachers import CachedLogits

PARTS = ("forget", "retain", "refusal")


class UnlearningMixin(TokenRecordsMixin):
    """Has a language model forget some texts and keep what it knows of others.

    Return ``self.unlearning_step(batch)`` from `training_step`. A batch is a mapping of `forget` and, as far as the
    objective takes them, `retain` and `refusal` (what is to be said instead), each a batch of text as `language_batch`
    takes it. Each part runs through the network once, only if a term takes something of it:

    - ``<part>_logps`` and ``<part>_mask``, without the logits of either model;
    - ``ref_<part>_logps`` of the reference: `self.teacher`, see `TokenRecordsMixin`, unless the batch has them. A cache
      holds those of `forget`, and of `refusal` beside it;
    - ``<part>_logits``, ``ref_<part>_logits`` and ``<part>_target`` for losses of whole distributions, such as
      `ForwardKL` on what is retained and `UnDIAL`, by the `inputs` of their terms; these hold the logits.

    Each term is the mean over the tokens or texts of the whole optimizer step, as `ObjectiveMixin` says, whatever the
    parts' sizes. Training and validation log, beside the objective, ``<stage>/forget_nll`` and ``<stage>/retain_nll``
    in nats per token, of the parts that ran.

    Example:
        >>> import lightning
        >>> from lightning_losses import GradientAscent, Objective, RetainNLL
        >>> from lightning_losses.networks.transformer import Transformer
        >>> class Model(UnlearningMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = Transformer(9, 8, width=8, depth=1, heads=2)
        ...         self.objective = Objective({"ascent": GradientAscent(), "retain": RetainNLL()})
        ...     def training_step(self, batch, batch_idx):
        ...         return self.unlearning_step(batch)
        >>> rows = torch.arange(9).reshape(1, 9)
        >>> forget, retain = ({"inputs": r[:, :8], "target": r[:, 1:]} for r in (rows, rows.flip(1)))
        >>> sorted(Model().training_step({"forget": forget, "retain": retain}, 0))
        ['forget_logps', 'forget_mask', 'loss', 'retain_logps', 'retain_mask']
    """

    def unlearning_step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The objective of a batch, and the step's output.

        Raises:
            ValueError: a batch of another form, or one without a part that a term takes.
        """
        tensors = self.unlearning_tensors(batch)
        output = self.apply_objective(**tensors)
        self.log_parts(tensors)
        return output

    def unlearning_tensors(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the objective takes of a batch."""
        if not isinstance(batch, Mapping) or "forget" not in batch:
            came = sorted(map(str, batch)) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise ValueError(
                f"{type(self).__name__}: {came} came as a batch; give a mapping of 'forget' and, as far as the "
                "objective takes them, 'retain' and 'refusal', each with 'inputs' and 'target'."
            )
        needs = self.objective.needs
        tensors: dict[str, Any] = {}
        for part in PARTS:
            taken = [name for name in names_of(part) if needs(name)]
            if not taken:
                continue
            if part not in batch:
                raise ValueError(
                    f"{type(self).__name__}: the objective takes {', '.join(map(repr, taken))}, but the batch holds "
                    f"{sorted(batch)}; give it {part!r}."
                )
            tensors |= self._of_part(part, self.split_batch(batch[part]), batch)
        tensors |= self._cached(batch, tensors)
        return self.widened(tensors, [name for name in tensors if name.endswith(("_logps", "_mask"))])

    def log_parts(self, tensors: Mapping[str, Any]) -> None:
        """Log the mean negative log-likelihood of each part that ran, over its tokens."""
        for part in PARTS[:2]:
            if f"{part}_logps" in tensors:
                kept = tensors[f"{part}_mask"]
                tokens = kept.sum()
                nll = -tensors[f"{part}_logps"].detach().masked_fill(~kept, 0.0).sum() / tokens.clamp(min=1)
                # Added up on the device: a call of `log` would wait for the number of tokens.
                self.add_to_means(self.log_name(f"{part}_nll"), {"": nll}, {"": 1.0}, {"": tokens})

    def _of_part(self, part: str, given: LanguageBatch, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the objective takes of one part."""
        needs, tensors = self.objective.needs, dict[str, Any]()
        network: Any = self.network
        if needs(f"{part}_logits"):
            logits = logits_of(type(self).__name__, call(network, given.inputs, **given.further))
            kept = given.target != self.ignore_index
            tensors |= {f"{part}_logits": logits, f"{part}_target": given.target}
            tensors |= {f"{part}_logps": _logps(logits, given, kept), f"{part}_mask": kept}
        else:
            record = self.token_record(given)
            tensors |= {f"{part}_logps": record.logps, f"{part}_mask": record.kept}
        if f"ref_{part}_logps" in batch:
            tensors[f"ref_{part}_logps"] = batch[f"ref_{part}_logps"]
        elif needs(f"ref_{part}_logps") and not isinstance(self.teacher, CachedLogits):
            tensors[f"ref_{part}_logps"] = self.reference_record(given).logps
        if needs(f"ref_{part}_logits"):
            tensors[f"ref_{part}_logits"] = self._reference_logits(given)
        return tensors

    @torch.no_grad()
    def _reference_logits(self, given: LanguageBatch) -> Float[Tensor, "batch tokens vocabulary"]:
        owner, reference = type(self).__name__, self.teacher
        if reference is None or isinstance(reference, CachedLogits):
            came = "none is set" if reference is None else "a cache of log-probabilities is set"
            raise ValueError(
                f"{owner}: the objective takes a reference's logits, but {came}; set self.teacher to the frozen "
                "reference."
            )
        with self.teacher_in_evaluation():
            return logits_of(f"{owner}: the reference", call(reference, given.inputs, **given.further))

    def _cached(self, batch: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The log-probabilities that a cache holds, of the parts that a term takes them of."""
        parts = [
            part
            for part in ("forget", "refusal")
            if self.objective.needs(f"ref_{part}_logps") and f"ref_{part}_logps" not in tensors
        ]
        if not parts or not isinstance(self.teacher, CachedLogits):
            return {}
        widths = [tensors[f"{part}_logps"].shape[1] for part in parts]
        values = self.cached_reference(batch, widths)
        return {f"ref_{part}_logps": value for part, value in zip(parts, values, strict=True)}


def names_of(part: str) -> list[str]:
    """What an objective may take of a part of a batch.

    Example:
        >>> names_of("retain")[:2]
        ['retain_logps', 'ref_retain_logps']
    """
    logits = [f"{part}_logits", f"ref_{part}_logits", f"{part}_target"]
    return [f"{part}_logps", f"ref_{part}_logps", f"{part}_mask", *logits]


def _logps(
    logits: Float[Tensor, "batch tokens vocabulary"], given: LanguageBatch, kept: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens"]:
    """The log-probabilities of the targets, from logits that are held anyway."""
    own = given.target.masked_fill(~kept, 0).unsqueeze(-1)
    return log_probabilities(full_precision(logits)).gather(-1, own).squeeze(-1).masked_fill(~kept, 0.0)
