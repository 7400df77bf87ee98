"""A ready LightningModule that trains a text encoder on pairs, with or without a teacher's embeddings."""

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.environment.logged_means import log_means
from lightning_losses.losses.kinds import EmbeddingLoss
from lightning_losses.metrics.retrieval import retrieval_ranks
from lightning_losses.mixins.distillation import DistillationMixin
from lightning_losses.mixins.grad_cache import GradCache
from lightning_losses.modules.classifier import (
    OptimizerFactory,
    SchedulerFactory,
    parameters_to_train,
    with_scheduler,
)
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.objective import Objective, Term
from lightning_losses.parallel.processes import gather_batch, group_rank, sizes_of_all

Batch = dict[str, Tensor]


class EmbeddingDistiller(GradCache, DistillationMixin, L.LightningModule):
    """Trains a text encoder on pairs of a query and its document.

    For a batch of B pairs the objective gets

    - `features`, [2 B, D]: the encoder's vectors of the queries, then of the documents; `teacher_features`: the
      teacher's vectors of the same texts;
    - `logits`, [B, B]: each query's cosine with every document, times `scale`; `teacher_logits`: the same from the
      teacher;
    - `target`, [B]: the position of each query's own document;
    - `embeddings`, [B, D]: the encoder's vectors of the queries, and `embeddings_b` those of their documents.

    With several processes the documents are those of all processes, unless `gather_batches` says otherwise. In
    validation each query is ranked among the documents of its batch. In a batch of one pair the document is certain:
    losses of `logits` are 0 without gradient, while losses of features still work.

    So cross-entropy is contrastive learning without a teacher, losses of features compare the embeddings, and losses of
    logits compare the rows of similarities.

    Args:
        network: maps [B, T] features of texts to vectors of length 1, [B, D].
        objective: the objective to minimise.
        teacher: returns vectors of length 1 by the texts' numbers; the query of pair i has number 2 i and the document
            2 i + 1. None if the objective needs none.
        optimizer: a function that makes the optimizer from the parameters; AdamW with its defaults if None.
        scheduler: a function that makes a learning-rate scheduler; it is stepped at every optimizer step.
        scale: the factor of the cosines, above 0.
        micro_batch: see `GradCache`; None embeds a batch at once.

    Raises:
        ValueError: a scale of 0 or less; a loss of classes and one set of embeddings alone, of which no two are alike.

    Example:
        >>> from lightning_losses import CrossEntropy
        >>> from lightning_losses.networks.hashed_text_encoder import HashedTextEncoder
        >>> network = HashedTextEncoder(buckets=10, dim=4)
        >>> module = EmbeddingDistiller(network, Objective({"ce": CrossEntropy()}))
        >>> texts = {"query": torch.ones(3, 2).long(), "document": torch.ones(3, 2).long(), "index": torch.arange(3)}
        >>> round(module.training_step(texts, 0)["loss"].item(), 4)  # log 3
        1.0986
    """

    logged_as = "{stage}/loss"

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        teacher: nn.Module | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        scale: float = 20.0,
        micro_batch: int | None = None,
    ) -> None:
        super().__init__()
        check_number(type(self).__name__, "scale", scale, above=0)
        _refuse_classes(type(self).__name__, objective)
        self.network = network
        self.objective = objective
        self.teacher = teacher
        self.make_optimizer: OptimizerFactory = optimizer or torch.optim.AdamW
        self.make_scheduler = scheduler
        self.scale, self.micro_batch = scale, micro_batch

    def forward(self, inputs: Int[Tensor, "batch time"]) -> Float[Tensor, "batch dim"]:
        """The vectors of a batch of texts."""
        return self.network(inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch."""
        queries, documents = (self.embedded(self.network, batch[name]) for name in ("query", "document"))
        return self.apply_objective(
            index=batch["index"],
            features=torch.cat([queries, documents]),
            embeddings=queries,
            embeddings_b=documents,
            logits=self._similarities(queries, documents),
            target=self._first_of_all(len(queries)) + torch.arange(len(queries), device=queries.device),
        )

    @torch.no_grad()
    def teacher_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The teacher's vectors and similarities of the batch's texts."""
        if self.teacher is None:
            raise ValueError(f"{type(self).__name__}: the objective takes a teacher's tensors, but no teacher is set.")
        numbers = 2 * tensors["index"]
        with self.teacher_in_evaluation():
            features = self.teacher(torch.cat([numbers, numbers + 1])).to(full_precision(tensors["features"]))
        queries, documents = features.chunk(2)
        return {"teacher_features": features, "teacher_logits": self._similarities(queries, documents)}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Retrieval of the batch's documents by their queries."""
        ranks = retrieval_ranks(self(batch["query"]).float(), self(batch["document"]).float())
        log_means(self, {"val/mrr": (1 / ranks.float()).sum() / max(len(ranks), 1)}, len(ranks))

    def configure_optimizers(self) -> Any:
        """One optimizer for the network and the losses' parameters."""
        return with_scheduler(self.make_optimizer(parameters_to_train(self, self.objective)), self.make_scheduler)

    def _similarities(
        self, queries: Float[Tensor, "batch dim"], documents: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch all"]:
        with torch.autocast(queries.device.type, enabled=False):
            scores = self.scale * full_precision(queries) @ full_precision(self._of_all(documents)).mT
        # With a single document, a masked class stands for the missing others.
        return F.pad(scores, (0, 1), value=-torch.inf) if scores.shape[-1] == 1 else scores

    def _of_all(self, documents: Float[Tensor, "batch dim"]) -> Float[Tensor, "all dim"]:
        """The documents of all processes whose batches are combined."""
        group = self.gathered_from()
        gathered: Tensor = documents if group is False else gather_batch(documents, group)
        return gathered

    def _first_of_all(self, own: int) -> int:
        """The position of this process's first document among them."""
        group = self.gathered_from()
        return 0 if group is False else sum(sizes_of_all(own, self.device, group)[: group_rank(group)])


def _refuse_classes(who: str, objective: Objective) -> None:
    """Raise ``ValueError`` for a loss that finds a sample's like ones by its class: every query has one of its own."""
    for name, term in objective.terms.items():
        if not (isinstance(term, Term) and isinstance(term.loss, EmbeddingLoss)):
            continue
        if "embeddings_b" not in term.loss.inputs() and term.source("embeddings") == "embeddings":
            raise ValueError(
                f"{who}: term {name!r} ({type(term.loss).__name__}) compares embeddings by their classes, and each "
                "query is a class of its own; give a loss of embeddings and embeddings_b, or of logits."
            )
