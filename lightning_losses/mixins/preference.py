"""The mixin that trains a language model by preferences: pairs of completions, or single ones called good or bad."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lightning_losses.data.language_batch import LanguageBatch
from lightning_losses.mixins.token_records import TokenRecordsMixin
from lightning_losses.numerics.token_sequences import token_sum
from lightning_losses.parallel.processes import group_rank, rows_of_all, sizes_of_all, world_size
from lightning_losses.teachers import CachedLogits
from lightning_losses.teachers.reference_records import Wanted, joined, widen

_PAIR = ("chosen", "rejected")


class PreferenceMixin(TokenRecordsMixin):
    """Trains a language model by preferences, without the logits of either model.

    Return ``self.preference_step(batch)`` from `training_step`. A batch of pairs is a mapping of `chosen` and
    `rejected`, each a batch of text as `language_batch` takes it: `inputs` and `target` with `ignore_index` at the
    prompt and the padding, or what a collator of transformers gives. Both run in one forward pass, the narrower padded
    at its end. A batch of single completions has `completion` and `desirable`, [B] bool; a loss of single completions,
    such as `KTO`, also takes pairs, as twice as many completions.

    Losses are fed under the glossary's names, each only if a term takes it: `chosen_logps`, `chosen_mask`,
    `chosen_log_collisions` and the same of `rejected`; `ref_chosen_logps` and `ref_rejected_logps` from the reference,
    see `TokenRecordsMixin`, unless the batch has them; `logps`, `ref_logps`, `completion_mask` and `desirable`, and for
    KTO's baseline `mismatched_logps`, `ref_mismatched_logps` and `mismatched_mask`: each prompt with the completion of
    the sample before it, of the last process's last sample for the first. Tokens of these beyond the batch's width are
    cut off.

    Training and validation log, beside the objective, ``<stage>/preference_accuracy``, the share of pairs whose chosen
    completion has the larger log-ratio to the reference (the larger log-probability without one), and
    ``<stage>/log_ratio_chosen``, ``<stage>/log_ratio_rejected`` in nats.

    Example:
        >>> import lightning
        >>> from lightning_losses import Objective
        >>> from lightning_losses.losses import DPO
        >>> from lightning_losses.networks.transformer import Transformer
        >>> class Model(PreferenceMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network, self.teacher = (Transformer(9, 8, width=8, depth=1, heads=2) for _ in range(2))
        ...         self.objective = Objective({"dpo": DPO()})
        ...     def training_step(self, batch, batch_idx):
        ...         return self.preference_step(batch)
        >>> rows = torch.arange(9).reshape(1, 9)
        >>> chosen, rejected = ({"inputs": r[:, :8], "target": r[:, 1:]} for r in (rows, rows.flip(1)))
        >>> Model().training_step({"chosen": chosen, "rejected": rejected}, 0)["loss"].requires_grad
        True
    """

    def preference_step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The objective of a batch of preferences, and the step's output.

        Raises:
            ValueError: a batch of another form, or a term that takes a tensor which it can't give.
        """
        tensors = self.preference_tensors(batch)
        output = self.apply_objective(**tensors)
        self._log_preferences(tensors)
        return output

    def preference_tensors(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the objective takes of a batch, under the glossary's names."""
        if not isinstance(batch, Mapping) or not (
            {*_PAIR} <= batch.keys() or {"completion", "desirable"} <= batch.keys()
        ):
            came = sorted(map(str, batch)) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise ValueError(
                f"{type(self).__name__}: {came} came as a batch; give a mapping of 'chosen' and 'rejected', or of "
                "'completion' and 'desirable'."
            )
        tensors: dict[str, Any] = {}
        needs = self.objective.needs
        paired = {*_PAIR} <= batch.keys()
        if paired and any(needs(f"{side}_logps") for side in _PAIR):
            tensors |= self._of_pairs(batch)
        if needs("logps"):
            tensors |= self._of_completions(batch, paired)
        named = [name for name in tensors if name.endswith(("logps", "mask", "log_collisions"))]
        return self.widened(tensors, named)

    def _of_pairs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a loss of pairs."""
        sides = [self.split_batch(batch[side]) for side in _PAIR]
        both, widths = joined(sides, self.ignore_index), [side.target.shape[1] for side in sides]
        collisions = any(self.objective.needs(f"{side}_log_collisions") for side in _PAIR)
        record = self.token_record(both, Wanted(log_collisions=collisions))
        tensors = _by_side("{}_logps", record.logps, widths) | _by_side("{}_mask", record.kept, widths)
        if record.log_collisions is not None:
            tensors |= _by_side("{}_log_collisions", record.log_collisions, widths)
        references = [f"ref_{side}_logps" for side in _PAIR]
        if any(self.objective.needs(name) for name in references):
            if {*references} <= batch.keys():
                tensors |= {name: batch[name] for name in references}
            elif isinstance(self.teacher, CachedLogits):
                tensors |= dict(zip(references, self.cached_reference(batch, widths), strict=True))
            else:
                tensors |= _by_side("ref_{}_logps", self.reference_record(both).logps, widths)
        return tensors

    def _of_completions(self, batch: Mapping[str, Any], paired: bool) -> dict[str, Any]:
        """Those of a loss of single completions."""
        if paired:
            sides = [self.split_batch(batch[side]) for side in _PAIR]
            given = joined(sides, self.ignore_index)
            samples = len(sides[0].target)
            desirable = torch.arange(len(given.target), device=given.target.device) < samples
        else:
            given, desirable = self.split_batch(batch["completion"]), batch["desirable"]
        record = self.token_record(given)
        tensors = {"logps": record.logps, "completion_mask": record.kept, "desirable": desirable}
        cached = isinstance(self.teacher, CachedLogits)
        if self.objective.needs("ref_logps"):
            if "ref_logps" in batch:
                tensors["ref_logps"] = batch["ref_logps"]
            elif cached:
                width = given.target.shape[1]
                widths = [self.split_batch(batch[side]).target.shape[1] for side in _PAIR] if paired else [width]
                parts = self.cached_reference(batch, widths)
                tensors["ref_logps"] = torch.cat([widen(part, width, 0) for part in parts])
            else:
                tensors["ref_logps"] = self.reference_record(given).logps
        if self.takes("mismatched_logps"):
            moved = mismatched(given, self.ignore_index)
            with torch.no_grad():
                own = self.token_record(moved)
            tensors |= {"mismatched_logps": own.logps, "mismatched_mask": own.kept}
            if self.takes("ref_mismatched_logps"):
                if cached:
                    raise ValueError(
                        f"{type(self).__name__}: a loss takes the reference's log-probabilities of mismatched prompts, "
                        "which no cache holds; give a live reference, or KTO(form='apo_zero_unpaired')."
                    )
                tensors["ref_mismatched_logps"] = self.reference_record(moved).logps
        return tensors

    @torch.no_grad()
    def _log_preferences(self, tensors: Mapping[str, Any]) -> None:
        """Log what the pairs show of the model beside the loss."""
        if "chosen_logps" not in tensors:
            return
        ratios = []
        for side in _PAIR:
            logps, reference = tensors[f"{side}_logps"], tensors.get(f"ref_{side}_logps", 0.0)
            ratios.append(token_sum(logps - reference, tensors[f"{side}_mask"]))
        chosen, rejected = ratios
        values = {
            "preference_accuracy": (chosen > rejected).to(chosen.dtype).mean(),
            "log_ratio_chosen": chosen.mean(),
            "log_ratio_rejected": rejected.mean(),
        }
        self.log_beside(values, len(chosen))


def _by_side(name: str, values: Tensor, widths: list[int]) -> dict[str, Tensor]:
    """The values of both sides, which are the halves of the rows, each as wide as its own."""
    return {
        name.format(side): half[:, :width] for side, half, width in zip(_PAIR, values.chunk(2), widths, strict=True)
    }


def mismatched(given: LanguageBatch, ignore_index: int = -100) -> LanguageBatch:
    """Each prompt with the completion of the sample before it; of the last process's last sample for the first.

    A row's prompt is what comes before its first target, and its completion the targets from there on. A sample without
    another one has no mismatched completion, and no target.

    Args:
        given: tokens, or `input_ids` with an `attention_mask`, padded at the end.
        ignore_index: the target of tokens that do not count.

    Raises:
        ValueError: other inputs, such as packed rows.

    Example:
        >>> tokens = LanguageBatch(torch.tensor([[1, 2, 5], [3, 7, 8]]), {}, torch.tensor([[-100, 5, 0], [7, 8, 0]]))
        >>> moved = mismatched(tokens)
        >>> moved.inputs.tolist(), moved.target.tolist()  # prompts 1 2 and 3
        ([[1, 2, 7], [3, 5, 0]], [[-100, 7, 8], [5, 0, -100]])
    """
    named = given.inputs if isinstance(given.inputs, Mapping) else {"input_ids": given.inputs}
    if given.further or named.keys() - {"input_ids", "attention_mask"} or "input_ids" not in named:
        raise ValueError(
            f"mismatched: {', '.join(map(repr, [*named, *given.further]))} came as inputs; give one completion a row, "
            "as tokens, or as input_ids with an attention_mask, without packing."
        )
    own = {**named, "target": given.target}
    before = {name: _row_before(rows, ignore_index if name == "target" else 0) for name, rows in own.items()}
    own = {
        name: widen(rows, before[name].shape[1], ignore_index if name == "target" else 0) for name, rows in own.items()
    }
    width = own["target"].shape[1]
    begin, begin_before = (_first(rows["target"] != ignore_index) for rows in (own, before))
    # Where the completion begins, and how far each place is behind that: as far as in the row that it comes from.
    behind = torch.arange(width, device=begin.device) - begin
    source = begin_before + behind
    comes = (behind >= 0) & (source < width)
    if len(given.target) == 1 and world_size() == 1:
        comes = torch.zeros_like(comes)
    moved = {name: rows.gather(1, source.clamp(0, width - 1)) for name, rows in before.items()}
    target = torch.where(comes, moved["target"], ignore_index)
    # The place that predicts the completion's first token holds the prompt's last.
    inputs = {name: torch.where(behind <= 0, own[name], torch.where(comes, moved[name], 0)) for name in named}
    return LanguageBatch(inputs if isinstance(given.inputs, Mapping) else inputs["input_ids"], {}, target)


def _first(kept: Bool[Tensor, "batch tokens"]) -> Int[Tensor, "batch 1"]:
    """The place of each row's first True; past the end without one."""
    return torch.where(kept.any(dim=1), kept.int().argmax(dim=1), kept.shape[1]).unsqueeze(1)


def _row_before(rows: Int[Tensor, "batch tokens"], filler: int) -> Int[Tensor, "batch _"]:
    """The row before each one, in the order of the processes, as wide as the widest process's."""
    if world_size() == 1:
        return rows.roll(1, dims=0)
    rows = widen(rows, max(sizes_of_all(rows.shape[1], rows.device)), filler)
    lasts, rank = rows_of_all(rows[-1:]), group_rank()
    # The nearest process before this one that has a row; before the first one comes the last.
    nearest = next((last for last in [*reversed(lasts[:rank]), *reversed(lasts[rank:])] if len(last)), rows[:0])
    return torch.cat([nearest, rows[:-1]])
