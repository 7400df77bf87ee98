"""Ready LightningModules for language models that never store the logits of a training batch."""

import time
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.data.language_batch import LanguageBatch, language_batch
from lightning_losses.environment.logged_means import log_means
from lightning_losses.kernels.cross_entropy.problem import Impl
from lightning_losses.kernels.linear_distillation import linear_distillation
from lightning_losses.losses import AlignedVocabulary, AttentionEntropyRegularizer, CrossEntropy
from lightning_losses.losses.base import Loss
from lightning_losses.losses.kinds import RowLoss
from lightning_losses.mixins.distillation import DistillationMixin
from lightning_losses.mixins.language_head import normalizer_of
from lightning_losses.modules.classifier import (
    OptimizerFactory,
    SchedulerFactory,
    parameters_to_train,
    with_scheduler,
)
from lightning_losses.modules.evaluation import evaluate
from lightning_losses.modules.language_terms import LanguageTerms
from lightning_losses.modules.peak_memory import PeakMemory
from lightning_losses.networks.calls import call, logits_of
from lightning_losses.networks.head_input import check_documents_apart, head_input
from lightning_losses.networks.output_head import HEAD_NAMES, head_matrix, logit_scale, logit_softcap, offered_heads
from lightning_losses.numerics.checks import check_choice
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.objective import Objective, Term


class LanguageModel(LanguageTerms, L.LightningModule):
    """Trains a network on next tokens with an objective of row-wise losses, each fused with the head.

    Batches are mappings of `inputs` and `target`, [B, T] each, where ``target[:, t]`` follows ``inputs[:, : t + 1]``,
    or tuples of both. If several documents are packed in a row, they also hold `documents`, [B, T], and tokens without
    a successor have `ignore_index` as target. Or they come from collators of transformers: then the network gets
    everything except the `labels` by name. `language_batch` has the details.

    Training logs ``train/loss`` and ``train/loss/<term>`` per token, ``train/tokens_per_second`` (over all processes,
    without the time of validation) and ``train/peak_memory`` in bytes (`PeakMemory`; the largest over the processes).
    Validation and test log cross-entropy in nats per token as ``loss``, and ``accuracy``. Means are over the tokens of
    the whole optimizer step, as `LanguageHeadMixin` says.

    A network with the heads of `multi_token_network` is trained to predict several tokens: the terms of logits and
    target alone, and `EMO`, are then sums over these tokens. Validation is of the next token.

    Args:
        network: maps tokens [B, T] to logits [B, T, V], in any form: `lightning_losses.networks.transformer`'s, one of
            transformers, with PEFT's adapters or without, or any whose head `LanguageHeadMixin` finds. In training its
            head is skipped, see `head_input`.
        objective: the objective to minimise. `CrossEntropy` goes through `linear_cross_entropy`, other row-wise losses
            of `logits` and `target` through `chunked_head`. `EMO` gets the head's weight as its cost embedding,
            `AttentionEntropyRegularizer` the attention weights, and `NoiseFiT`, with the callback `AdaptiveNoise`, two
            further passes.
        optimizer: a function that makes the optimizer from the parameters; AdamW with its defaults if None.
        scheduler: a function that makes a learning-rate scheduler; it is stepped at every optimizer step.
        impl: the implementation of the fused losses; "auto" chooses by size.

    Raises:
        ValueError: an unknown `impl`; a balancing policy; a term that takes tensors which a head doesn't offer, isn't a
            mean, or weighs classes; terms that ignore different targets.

    Example:
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network = Transformer(vocabulary_size=9, context_length=8, width=8, depth=1, heads=2)
        >>> model, tokens = LanguageModel(network, Objective({"ce": CrossEntropy()})), torch.arange(9).reshape(1, 9)
        >>> model.training_step({"inputs": tokens[:, :8], "target": tokens[:, 1:]}, 0)["loss"].item() > 2
        True
    """

    offered: tuple[str, ...] = ("logits", "target")
    logged_as = "{stage}/loss"
    offers_terms = False
    _asks_for_hidden_states = True
    # Logged at an epoch's end, not by steps.
    epoch_metrics = ("train/tokens_per_second", "train/peak_memory")

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        check_choice(type(self).__name__, "impl", impl, Impl)
        self.network = network
        self.objective = objective
        self.make_optimizer: OptimizerFactory = optimizer or torch.optim.AdamW
        self.make_scheduler = scheduler
        self.impl: Impl = impl
        self.ignore_index = self._check_terms()
        self._tokens, self._seconds, self._since = torch.zeros((), dtype=torch.int64), 0.0, 0.0
        self._peak: PeakMemory | None = None

    def forward(
        self, inputs: Any, documents: Int[Tensor, "batch time"] | None = None, **further: Any
    ) -> Float[Tensor, "batch time features"]:
        """The hidden states in training, the logits in evaluation."""
        if documents is not None:
            further["documents"] = documents
        if self.training:
            return self.hidden_states(inputs, **further)
        return logits_of(type(self).__name__, call(self.network, inputs, **further))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The objective of one batch."""
        given = self._given(self.network, self.find_head(), batch)
        (hidden, every), target = self.run_network(batch, given), given.target
        weight, bias = self.head_parameters(hidden.dtype)
        kept = self.count_tokens(target, ignore_index=self.ignore_index)
        head = {"hidden": hidden, "weight": weight, "bias": bias, "target": target}
        options = {"ignore_index": self.ignore_index, "impl": self.impl, "softcap": self.head_softcap()}
        progress = self.training_clock().get("progress")
        terms = self._terms()
        weights = {name: term.weight_at(progress) for name, term in terms.items()}
        parts, samples, shares = dict[str, Tensor](), dict[str, Tensor](), list[Tensor]()
        for name, term in terms.items():
            labelled = not term.leaves_out("target")
            samples[name], tokens = kept if labelled else self.count_every_token(target)
            divided = {"normalizer": normalizer_of(samples[name])}
            parts[name] = self.term_loss(term, batch, self.head_of_term(term, head, every), options | divided)
            shares.append(self.share_of_step(weights[name] * parts[name], tokens))
        self.add_to_means(self.log_name(), parts, weights, samples)
        self._tokens = self._tokens + (target != self.ignore_index).sum()
        return {"loss": torch.stack(shares).sum(), "target": target}

    def on_fit_start(self) -> None:
        """Begin to measure the memory."""
        super().on_fit_start()
        self._peak = PeakMemory(self.device)

    def on_train_epoch_start(self) -> None:
        """Begin to count."""
        super().on_train_epoch_start()
        self._tokens, self._seconds = torch.zeros((), dtype=torch.int64, device=self.device), 0.0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start the clock; it runs between batches too, but not in validation."""
        if batch_idx == 0 or self._since == 0.0:
            self._since = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Read the clock, and log speed and memory once the epoch's last batch is done."""
        last = bool(self.trainer.is_last_batch)
        if last and self.device.type == "cuda":
            # Stop the clock when the work is done, not when it is queued.
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self._seconds, self._since = self._seconds + now - self._since, now
        if last and self._peak is not None:
            speed, peak = float(self._tokens) / self._seconds, float(self._peak.bytes())
            self.log("train/tokens_per_second", speed, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="sum")
            self.log("train/peak_memory", peak, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")

    def on_validation_end(self) -> None:
        """Restart the clock."""
        super().on_validation_end()
        self._since = 0.0

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Metrics on one batch."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Metrics on one batch."""
        return self._evaluate(batch, "test")

    def configure_optimizers(self) -> Any:
        """One optimizer for the network."""
        return with_scheduler(self.make_optimizer(parameters_to_train(self, self.objective)), self.make_scheduler)

    def _given(self, network: nn.Module, head: nn.Module, batch: Any) -> LanguageBatch:
        given = language_batch(type(self).__name__, network, batch, self.ignore_index)
        if "position_ids" in given.further:
            check_documents_apart(type(self).__name__, network, head)
        return given

    def _evaluate(self, batch: Any, split: str) -> dict[str, Tensor]:
        given = self._given(self.network, self.find_head(), batch)
        logits, target = full_precision(self(given.inputs, **given.further)), given.target
        measured = evaluate(logits, target, self.ignore_index)
        log_means(self, {f"{split}/loss": measured.loss, f"{split}/accuracy": measured.accuracy}, measured.samples)
        return {"loss": measured.loss, "logits": logits, "target": target}

    def _terms(self) -> dict[str, Term]:
        return {name: term for name, term in self.objective.terms.items() if isinstance(term, Term)}

    def _check_terms(self) -> int:
        """The target that every term ignores."""
        owner, ignored = type(self).__name__, set()
        if (policy := self.objective.balancing) is not None:
            raise ValueError(
                f"{owner}: the objective has balancing={type(policy).__name__}, and a fused head adds its terms up "
                "without a policy; leave balancing out, or train on logits with ObjectiveMixin."
            )
        for name, term in self._terms().items():
            if further := sorted(set(term.needs) - set(self.offered) - set(self.further_tensors(term))):
                raise ValueError(
                    f"{owner}: term '{name}' takes {', '.join(map(repr, further))}; a fused head offers "
                    f"{', '.join(map(repr, self.offered))}, give an objective of these."
                )
            loss = term.loss
            if isinstance(loss, CrossEntropy) and loss.class_weight is not None:
                raise ValueError(
                    f"{owner}: term '{name}' has a class_weight; tokens weigh the same here, leave it out."
                )
            if isinstance(loss, Loss) and getattr(loss, "reduction", "mean") != "mean":
                raise ValueError(f"{owner}: term '{name}' has reduction={loss.reduction!r}; give 'mean'.")
            if not isinstance(loss, AttentionEntropyRegularizer):
                ignored.add(loss.ignore_index if isinstance(loss, RowLoss) else -100)
        if len(ignored) > 1:
            raise ValueError(f"{owner}: the terms have ignore_index={sorted(ignored)}; give all of them the same.")
        return int(ignored.pop()) if ignored else -100


class LanguageModelDistiller(DistillationMixin, LanguageModel):
    """Distils a teacher into a student without storing the logits of either.

    Terms that take `teacher_logits` go through `linear_distillation`, on the teacher's hidden states and head. If the
    vocabularies differ, wrap a term's loss in `AlignedVocabulary` with "truncate" or "map"; a token whose target is not
    shared adds 0 to that term's mean over all tokens. A term with ``inputs={"target": None}`` is the mean over every
    token, with or without target. The teacher is no submodule and gets no gradient, see `DistillationMixin`.

    Args:
        teacher: a network as in `LanguageModel`; its width may differ from the student's.
        **language_model: see `LanguageModel`; `network` is the student.

    Raises:
        ValueError: as `LanguageModel`; when training begins, no teacher.

    Example:
        >>> from lightning_losses import KD
        >>> from lightning_losses.networks.transformer import Transformer
        >>> student, teacher = (Transformer(9, context_length=8, width=width, depth=1, heads=2) for width in (8, 16))
        >>> model = LanguageModelDistiller(teacher, network=student, objective=Objective({"kd": KD()}))
        >>> tokens = torch.arange(9).reshape(1, 9)
        >>> model.training_step({"inputs": tokens[:, :8], "target": tokens[:, 1:]}, 0)["loss"].requires_grad
        True
    """

    offered = ("logits", "target", "teacher_logits")

    def __init__(self, teacher: nn.Module | None = None, **language_model: Any) -> None:
        self.teacher = teacher
        super().__init__(**language_model)

    def term_loss(self, term: Term, batch: Any, head: dict[str, Any], options: dict[str, Any]) -> Tensor:
        """One term of the objective, without the logits of either network."""
        if "teacher_logits" not in term.needs:
            return super().term_loss(term, batch, head, options)
        if self.teacher is None:
            raise ValueError(f"{type(self).__name__}: the objective takes 'teacher_logits', but no teacher is set.")
        owner, teacher = type(self).__name__, self.teacher
        if not (heads := offered_heads(teacher)):
            raise ValueError(
                f"{owner}: the teacher, a {type(teacher).__name__}, offers no head; give it one as "
                f"get_output_embeddings() or under {', '.join(HEAD_NAMES)}."
            )
        given = self._given(teacher, heads[0], batch)
        with torch.no_grad(), self.teacher_in_evaluation():
            teacher_hidden = head_input(owner, teacher, heads[0], given.inputs, **given.further)
            weight, bias = head_matrix(owner, heads[0], logit_scale(teacher))
        loss: Any = term.loss
        vocabulary: dict[str, Any] = {}
        if isinstance(loss, AlignedVocabulary):
            # The same cut, applied to the heads' rows instead of the logits.
            vocabulary = {
                "vocabulary": loss.policy,
                "student_classes": loss.student_classes,
                "teacher_classes": loss.teacher_classes,
            }
            loss = loss.loss
        value = linear_distillation(
            **head,
            **options,
            **vocabulary,
            teacher_hidden=teacher_hidden,
            teacher_weight=weight,
            teacher_bias=bias,
            teacher_softcap=logit_softcap(teacher),
            objective=loss,
            reduction="mean",
        )
        return value.loss
