"""Embeds the training set for `NGAMESampler`, whose batches are of samples that lie close together."""

from dataclasses import field
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.access import evaluation_mode, sum_over_processes
from lightning_losses.callbacks.calibration.evaluation_logits import on_the_device
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.data.loading import share_of_training_set
from lightning_losses.numerics.settings import Count
from lightning_losses.samplers.ngame_sampler import NGAMESampler


class NGAMEClusters(DeclaredCallback):
    """Embeds the training set when its `NGAMESampler` wants it, at the start of an epoch, and has it cluster.

    Embeddings are what the module makes of each sample's `inputs`, in evaluation mode and without gradient; each
    process embeds its share, and all have the same clusters. They are in checkpoints, so that a run that was
    interrupted within an epoch goes on with its batches. A loader with another sampler is left alone, because a
    run's callbacks also accompany the training of its teacher.

    Args:
        inputs: the name of what is embedded in a batch, such as "query".
        batch_size: of the embedding, at least 1; None takes that of the training.

    Raises:
        ValueError: settings out of range; when it embeds, batches without the name, or a module that doesn't make a
            vector of each sample.

    Example:
        >>> NGAMEClusters(inputs="query").inputs
        'query'
    """

    name = "NGAMEClusters"
    kept = ("_clusters", "_clustered_at")

    inputs: str = "inputs"
    batch_size: Count | None = None
    _clusters: Tensor | None = field(init=False, default=None)
    _clustered_at: int = field(init=False, default=-1)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the sampler the clusters of the checkpoint."""
        sampler = _sampler(trainer)
        if sampler is not None and self._clusters is not None:
            sampler.load_state_dict({"clusters": self._clusters.cpu(), "clustered_at": self._clustered_at})

    @torch.no_grad()
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Embed, where the sampler wants it."""
        sampler = _sampler(trainer)
        if sampler is None or not sampler.wants_embeddings:
            return
        parts = []
        with evaluation_mode(pl_module):
            size = self.batch_size or getattr(trainer.train_dataloader, "batch_size", None)
            for batch in share_of_training_set(self.name, trainer, size):
                batch = on_the_device(trainer, pl_module, batch)
                if not isinstance(batch, dict) or self.inputs not in batch:
                    came = ", ".join(map(repr, batch)) if isinstance(batch, dict) else f"a {type(batch).__name__}"
                    raise ValueError(
                        f"{self.name}: a batch of {came} came, and inputs={self.inputs!r} is not in it; name what the "
                        "module embeds."
                    )
                vectors = pl_module(batch[self.inputs])
                if not isinstance(vectors, Tensor) or vectors.ndim != 2:
                    came = str(list(vectors.shape)) if isinstance(vectors, Tensor) else type(vectors).__name__
                    raise ValueError(
                        f"{self.name}: {came} came of {type(pl_module).__name__}; it must make a vector of each "
                        "sample, [B, D]."
                    )
                parts.append(vectors.float())
        own = torch.cat(parts)
        # Each process has every so manyth sample, in the data set's order.
        whole = own.new_zeros(sampler.samples, own.shape[1])
        whole[trainer.global_rank :: trainer.world_size] = own
        sampler.cluster(sum_over_processes(trainer, whole))
        self._clusters, self._clustered_at = sampler.clusters, sampler.clustered_at


def _sampler(trainer: L.Trainer) -> NGAMESampler | None:
    sampler: Any = getattr(trainer.train_dataloader, "sampler", None)
    return sampler if isinstance(sampler, NGAMESampler) else None
