"""Renews the weights of a `DomainSampler` from the student's lag behind its teacher in each domain."""

import itertools
from dataclasses import field
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.callbacks.access import evaluation_mode, sum_over_processes
from lightning_losses.callbacks.calibration.evaluation_logits import on_the_device
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.data.loading import held_out_loader
from lightning_losses.numerics.rows import labelled_rows
from lightning_losses.numerics.settings import Count, Share
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.samplers.ddk_sampler import DomainSampler, initial_domain_weights, updated_domain_weights


class DomainWeights(DeclaredCallback):
    """Sets a `DomainSampler`'s weights by DDK: at the start, and after every `every` optimizer steps.

    Student and teacher are evaluated on the validation split, whose batches hold each sample's `domain`; the teacher
    only once, because it does not change. With several processes each evaluates its share of the batches, and all
    sample with the same weights. The weights and the teacher's losses are in the checkpoint. Logs
    ``train/domain_weight/<domain>``.

    The module needs `DistillationMixin`, and the trainer ``use_distributed_sampler=False``, so that the sampler stays.

    Args:
        every: optimizer steps between two evaluations, at least 1; 1000 in the paper.
        alpha: the share of the new weights, in [0, 1]; no domain falls below ``(1 - alpha) / D``.
        batches: the largest number of batches to evaluate, the first of the validation split; None takes all.

    Raises:
        ValueError: options out of range; when training begins, training data without a `DomainSampler`, a module
            without a teacher, validation batches without `domain`, or a domain without validation samples.

    Source:
        Liu, Zhang, Guo et al., 2024, "DDK: Distilling Domain Knowledge for Efficient Large Language Models",
        arXiv:2407.16154.

    Example:
        >>> DomainWeights(every=100).alpha
        0.5
    """

    name = "DomainWeights"
    kept = ("weights", "teacher_ce")

    every: Count = 1000
    alpha: Share = 0.5
    batches: Count | None = None
    weights: Tensor | None = field(init=False, default=None)
    teacher_ce: Tensor | None = field(init=False, default=None)
    _renewed: int = field(init=False, default=0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate both networks and set the first weights, or set those of the checkpoint."""
        sampler = self._sampler(trainer)
        if not hasattr(pl_module, "teacher_tensors"):
            raise ValueError(
                f"DomainWeights: {type(pl_module).__name__} has no teacher to compare with; give it DistillationMixin."
            )
        if self.weights is None:
            module: Any = pl_module
            self.teacher_ce = self._losses(
                trainer, pl_module, lambda batch: module.teacher_tensors(batch)["teacher_logits"]
            )
            self.weights = initial_domain_weights(self._student_ce(trainer, pl_module), self.teacher_ce)
        self._renewed = trainer.global_step
        sampler.set_weights(self.weights)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate the student and renew the weights, if it is time."""
        assert self.weights is not None and self.teacher_ce is not None
        step = trainer.global_step
        if step != self._renewed and step % self.every == 0:
            self._renewed = step
            student_ce = self._student_ce(trainer, pl_module)
            self.weights = updated_domain_weights(self.weights, student_ce, self.teacher_ce, alpha=self.alpha)
            self._sampler(trainer).set_weights(self.weights)
        pl_module.log_dict(
            {f"train/domain_weight/{domain}": weight for domain, weight in enumerate(self.weights.float())},
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=1,
        )

    def _student_ce(self, trainer: L.Trainer, module: L.LightningModule) -> Float[Tensor, " domains"]:
        return self._losses(trainer, module, lambda batch: module(batch["inputs"]))

    @torch.no_grad()
    def _losses(self, trainer: L.Trainer, module: L.LightningModule, predict: Any) -> Float[Tensor, " domains"]:
        domains = len(self._sampler(trainer).members)
        sums, counts = (torch.zeros(domains, dtype=torch.float64, device=module.device) for _ in range(2))
        with evaluation_mode(module):
            batches = itertools.islice(held_out_loader(self.name, trainer), self.batches)
            while turn := list(itertools.islice(batches, trainer.world_size)):
                # Forward passes of sharded weights are of all processes: for whom the last turn has no batch, the last
                # one doesn't count.
                counts_here = trainer.global_rank < len(turn)
                batch = turn[trainer.global_rank if counts_here else -1]
                for one in turn:
                    if "domain" not in one:
                        raise ValueError(
                            f"DomainWeights: validation batches hold {', '.join(one)}; give them 'domain'."
                        )
                batch = on_the_device(trainer, module, batch)
                kept = labelled_rows(batch["target"], *ignored_targets(module)) & counts_here
                losses = F.cross_entropy(predict(batch)[kept].double(), batch["target"][kept], reduction="none")
                shape = batch["domain"].shape + (1,) * (kept.ndim - 1)
                domain = batch["domain"].view(shape).expand_as(kept)[kept]
                sums.index_add_(0, domain, losses)
                counts.index_add_(0, domain, torch.ones_like(losses))
        sums, counts = sum_over_processes(trainer, sums), sum_over_processes(trainer, counts)
        if bool((counts == 0).any()):
            raise ValueError(
                f"DomainWeights: domains {(counts == 0).nonzero().flatten().tolist()} have no validation samples; "
                "give each some."
            )
        return (sums / counts).cpu()

    def _sampler(self, trainer: L.Trainer) -> DomainSampler:
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        if not isinstance(sampler, DomainSampler):
            raise ValueError(
                f"DomainWeights: the training data are drawn by a {type(sampler).__name__}; give the DataLoader a "
                "DomainSampler, and the trainer use_distributed_sampler=False."
            )
        return sampler
