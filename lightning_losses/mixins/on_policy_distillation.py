"""The mixin that distils a language model on sequences that it draws itself."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lightning_losses.data.language_batch import language_batch
from lightning_losses.decoding.generate import generate
from lightning_losses.mixins.distillation import DistillationMixin
from lightning_losses.parallel.processes import group_rank
from lightning_losses.parallel.sharding import is_sharded


class OnPolicyDistillationMixin(DistillationMixin):
    """Lets a `LanguageModelDistiller` train on completions that the student or the teacher draws of a batch's prompts.

    In each training batch u is drawn from [0, 1). Where u <= `on_policy_share` the student completes the batch's
    prompts; else the teacher does, with `teacher_completes`; else the batch keeps its own completions. The objective,
    as a rule `GeneralizedJSD`, is evaluated on the completions alone: prompts and what follows a stop token are
    ignored. There is no gradient through the drawing.

    A prompt is what stands before a row's first target that is not ignored, and at least `prompt_length` tokens. All
    processes take the same branch, which depends on `sampling_seed`, the optimizer step and the batch's number alone,
    as what is drawn does: a run that continues from a checkpoint draws what an uninterrupted one does.

    It comes before the module in the bases; `lightning_losses.modules.on_policy_distiller` is such a module.

    Attributes:
        prompt_length: the least number of tokens in a prompt.
        max_new_tokens: the largest number of tokens in a completion.
        on_policy_share: λ, the share of batches that the student completes, in [0, 1].
        teacher_completes: whether the teacher completes the other batches (sequence-level distillation).
        sampling_temperature: of both, at least 0.
        stop_token: ends a completion; None: all have `max_new_tokens`.
        sampling_seed: of the branches and of what is drawn.

    Source:
        Agarwal et al., 2024, "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
        arXiv:2306.13649, and huggingface/trl's GKD trainer, whose defaults these are.

    Example:
        >>> from lightning_losses import GeneralizedJSD, Objective
        >>> from lightning_losses.modules.language_model import LanguageModelDistiller
        >>> from lightning_losses.networks.transformer import Transformer
        >>> class Distiller(OnPolicyDistillationMixin, LanguageModelDistiller):
        ...     prompt_length, max_new_tokens, on_policy_share = 3, 4, 1.0
        >>> student, teacher = (Transformer(9, context_length=8, width=width, depth=1, heads=2) for width in (8, 16))
        >>> module = Distiller(teacher, network=student, objective=Objective({"jsd": GeneralizedJSD()}))
        >>> tokens = torch.arange(9)
        >>> drawn = module.on_policy_batch({"inputs": tokens[None, :8], "target": tokens[None, 1:]}, 0)
        >>> drawn["inputs"][0, :3].tolist(), (drawn["target"][0] == -100).tolist()
        ([0, 1, 2], [True, True, False, False, False, False])
    """

    network: nn.Module
    ignore_index: int
    prompt_length: int = 1
    max_new_tokens: int = 128
    on_policy_share: float = 0.5
    teacher_completes: bool = False
    sampling_temperature: float = 0.9
    stop_token: int | None = None
    sampling_seed: int = 0

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The objective of one batch, with the completions that its turn has."""
        step: Any = super().training_step(self.on_policy_batch(batch, batch_idx), batch_idx)
        return step

    def on_policy_batch(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """A batch with completions of the student, of the teacher, or its own, as the batch's number decides.

        Args:
            batch: as the module takes it, of unpacked rows of a causal network, not padded at their left.
            batch_idx: its number.

        Raises:
            ValueError: packed rows, rows padded at their left, or further inputs beside tokens; no teacher.
        """
        tokens, target = self._tokens_and_target(batch)
        # A row without a target is all prompt, and its completion is ignored.
        first = (target != self.ignore_index).long().argmax(dim=1)
        lengths = (first + 1).clamp(min=self.prompt_length)
        branch = self._generator(batch_idx, 0)
        if torch.rand((), generator=branch, dtype=torch.float64) <= self.on_policy_share:
            return self._completed(self.network, tokens, target, lengths, batch_idx)
        if self.teacher_completes:
            if self.teacher is None:
                raise ValueError(f"{type(self).__name__}: teacher_completes came, but no teacher is set.")
            with self.teacher_in_evaluation():
                return self._completed(self.teacher, tokens, target, lengths, batch_idx)
        place = torch.arange(target.shape[1], device=target.device)
        return {"inputs": tokens, "target": target.masked_fill(place < lengths.unsqueeze(1) - 1, self.ignore_index)}

    def _completed(
        self,
        network: nn.Module,
        tokens: Int[Tensor, "batch time"],
        target: Int[Tensor, "batch time"],
        lengths: Int[Tensor, " batch"],
        batch_idx: int,
    ) -> dict[str, Tensor]:
        longest = min(tokens.shape[1], int(lengths.max()))
        # A part of sharded weights is gathered where the module is called.
        caller: Any = self if network is self.network and is_sharded(self) else network
        drawn = generate(
            caller,
            tokens[:, :longest],
            self.max_new_tokens,
            prompt_lengths=lengths.clamp(max=longest),
            temperature=self.sampling_temperature,
            stop_token=self.stop_token,
            generator=self._generator(batch_idx, 1 + group_rank()),
        )
        kept = drawn.completion_mask[:, 1:] & (target != self.ignore_index).any(dim=1, keepdim=True)
        return {"inputs": drawn.tokens[:, :-1], "target": drawn.tokens[:, 1:].masked_fill(~kept, self.ignore_index)}

    def _tokens_and_target(self, batch: Any) -> tuple[Int[Tensor, "batch time"], Int[Tensor, "batch time"]]:
        owner = type(self).__name__
        given = language_batch(owner, self.network, batch, self.ignore_index)
        inputs = given.inputs
        if isinstance(inputs, Mapping):
            attended = inputs.get("attention_mask")
            further = {name for name in inputs if name not in ("input_ids", "attention_mask")}
            if attended is not None and bool((attended[:, 0] == 0).any()):
                raise ValueError(f"{owner}: rows padded at their left came; pad them at their right.")
            tokens = inputs.get("input_ids")
        else:
            tokens, further = inputs, set()
        if further | set(given.further) or not isinstance(tokens, Tensor):
            raise ValueError(
                f"{owner}: a batch with {', '.join(sorted(further | set(given.further))) or type(tokens).__name__} "
                "came, and prompts are completed as plain tokens; give unpacked rows [B, T] of tokens alone."
            )
        return tokens, given.target

    def _generator(self, batch_idx: int, stream: int) -> torch.Generator:
        """Random numbers of a batch; stream 0 is the same on all processes."""
        seed = self.sampling_seed
        for number in (self.global_step, batch_idx, stream):
            seed = (seed * 1_000_003 + number + 1) % (2**61 - 1)
        return torch.Generator().manual_seed(seed)
