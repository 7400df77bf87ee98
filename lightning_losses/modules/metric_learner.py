"""A ready LightningModule for metric learning: a network makes embeddings, which are judged by what they find."""

import math
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.data.loading import named
from lightning_losses.losses.kinds import ClassificationLoss
from lightning_losses.losses.margins.ebv import EBV
from lightning_losses.metrics.class_retrieval import class_retrieval
from lightning_losses.metrics.opis import opis
from lightning_losses.mixins import ObjectiveMixin
from lightning_losses.modules.classifier import (
    Batch,
    OptimizerFactory,
    SchedulerFactory,
    parameters_to_train,
    with_scheduler,
)
from lightning_losses.networks.calls import call, logits_of
from lightning_losses.networks.margin_head import MarginHead
from lightning_losses.numerics.rows import labelled_rows
from lightning_losses.objective import Objective, Term
from lightning_losses.objective.ignored_targets import ignored_targets


class MetricLearner(ObjectiveMixin, L.LightningModule):
    """Trains a network whose outputs are embeddings, with losses of embeddings and classes.

    Batches are mappings of `inputs` and `target`, or tuples of the two. The objective is offered:

    - `embeddings`, the network's outputs, not normalised, and `target`; `features` are the same;
    - `logits`, their cosines with a vector for each class (`MarginHead`), for losses with margins;
    - `layer_embeddings`, the same embeddings of features without gradient, which train the last layer alone
      (`EnergyConfusion`);
    - `embeddings_b`, those of the batch's `other_inputs`, where it has a second view.

    Validation and test log the objective as ``loss``, and of the whole split, whose classes may be others than those of
    training, ``recall_at_1``, ``map_at_r`` and ``opis``; on several processes the mean of what each finds in its own
    share, which is the whole split with the library's data.

    Args:
        network: maps `inputs` to embeddings [B, E]; its last layer is linear.
        objective: what is minimised.
        num_classes: C, for losses of `logits`.
        optimizer: makes the optimizer from the parameters; AdamW at its defaults if None.
        scheduler: makes a learning-rate scheduler, stepped every optimizer step.

    Raises:
        ValueError: an objective of `logits` without num_classes, or whose losses don't scale cosines; a network that
            does not end with a linear layer, where that layer is needed.

    Example:
        >>> from lightning_losses import Triplet
        >>> module = MetricLearner(nn.Linear(4, 8), Objective({"triplet": Triplet()}))
        >>> batch = {"inputs": torch.randn(6, 4), "target": torch.arange(6) % 2}
        >>> module.training_step(batch, 0)["embeddings"].shape
        torch.Size([6, 8])
    """

    logged_as = "{stage}/loss"

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        num_classes: int | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.make_optimizer: OptimizerFactory = optimizer or torch.optim.AdamW
        self.make_scheduler = scheduler
        self.head: MarginHead | None = None
        if objective.needs("logits"):
            if num_classes is None:
                raise ValueError(
                    f"{type(self).__name__}: the objective takes logits; give num_classes, so that each class has a "
                    "vector."
                )
            _refuse_unscaled(type(self).__name__, objective)
            # Equiangular vectors are not trained.
            fixed = any(isinstance(getattr(term, "loss", term), EBV) for term in objective.terms.values())
            self.head = MarginHead(last_linear(network).out_features, num_classes, fixed=fixed)
        if objective.needs("layer_embeddings"):
            last_linear(network)
        self._evaluated: list[tuple[Tensor, Tensor]] = []

    def forward(self, inputs: Any) -> Float[Tensor, "batch dim"]:
        """The embeddings of a batch of inputs."""
        return logits_of(f"{type(self).__name__}: the network", call(self.network, inputs))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch."""
        return self._step(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch; its embeddings are kept for the epoch's end."""
        return self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch; its embeddings are kept for the epoch's end."""
        return self._evaluate(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The embeddings of one batch, and its target if it has one."""
        given = named(type(self).__name__, batch)
        return {"embeddings": self(given["inputs"]), **({"target": given["target"]} if "target" in given else {})}

    def on_validation_epoch_start(self) -> None:
        """Forget the embeddings of an epoch that was interrupted."""
        super().on_validation_epoch_start()
        self._evaluated = []

    def on_test_epoch_start(self) -> None:
        """Likewise."""
        super().on_test_epoch_start()
        self._evaluated = []

    def on_validation_epoch_end(self) -> None:
        """Log what the validation split's embeddings find."""
        super().on_validation_epoch_end()
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log what the test split's embeddings find."""
        super().on_test_epoch_end()
        self._log_scores("test")

    def configure_optimizers(self) -> Any:
        """One optimizer for the network, the class vectors and the objective's own parameters."""
        return with_scheduler(self.make_optimizer(parameters_to_train(self, self.objective)), self.make_scheduler)

    def _step(self, batch: Batch) -> dict[str, Any]:
        given = dict(named(type(self).__name__, batch))
        if self.objective.needs("embeddings_b") and "other_inputs" in given:
            given["embeddings_b"] = self(given.pop("other_inputs"))
        if self.objective.needs("layer_embeddings"):
            embeddings, given["layer_embeddings"] = self._with_layer(given["inputs"])
        else:
            embeddings = self(given["inputs"])
        if self.head is not None:
            given["logits"] = self.head(embeddings)
        # Losses of a layer's features take the embeddings here.
        return self.apply_objective(**{"features": embeddings, **given}, embeddings=embeddings)

    def _with_layer(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """The embeddings, and those of features without gradient."""
        layer, features = last_linear(self.network), list[Tensor]()
        with layer.register_forward_pre_hook(lambda _, given: features.append(given[0])):
            embeddings = self(inputs)
        return embeddings, layer(features[0].detach())

    def _evaluate(self, batch: Batch) -> dict[str, Any]:
        output = self._step(batch)
        kept = labelled_rows(output["target"], *ignored_targets(self))
        self._evaluated.append((output["embeddings"].detach()[kept].cpu(), output["target"][kept].cpu()))
        return output

    def _log_scores(self, stage: str) -> None:
        parts, self._evaluated = self._evaluated, []
        if parts:
            embeddings, target = (torch.cat(column) for column in zip(*parts, strict=True))
            scores = embedding_scores(embeddings.float(), target)
            self.log_dict({f"{stage}/{name}": value for name, value in scores.items()}, sync_dist=True)


def embedding_scores(embeddings: Float[Tensor, "samples dim"], target: Int[Tensor, " samples"]) -> dict[str, float]:
    """Recall@1, MAP@R and OPIS of a split's embeddings; NaN where its classes are too few or too small.

    Example:
        >>> scores = embedding_scores(torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1]))
        >>> scores["recall_at_1"], scores["opis"]
        (1.0, 0.0)
    """
    sizes = torch.unique(target, return_counts=True)[1]
    if len(sizes) < 2 or int(sizes.max()) < 2:
        return dict.fromkeys(("recall_at_1", "map_at_r", "opis"), math.nan)
    found = class_retrieval(embeddings, target)
    return {
        "recall_at_1": found.recall_at_1.mean().item(),
        "map_at_r": found.map_at_r.mean().item(),
        "opis": opis(embeddings, target).value.item(),
    }


def _refuse_unscaled(who: str, objective: Objective) -> None:
    """Raise ``ValueError`` for a loss of logits that takes cosines as they are: no class could become likely."""
    for name, term in objective.terms.items():
        loss = getattr(term, "loss", term)
        plain = isinstance(loss, nn.CrossEntropyLoss)
        unscaled = plain or (isinstance(loss, ClassificationLoss) and not loss.takes_cosines)
        if unscaled and isinstance(term, Term) and "logits" in term.needs:
            raise ValueError(
                f"{who}: term {name!r} ({type(loss).__name__}) came, and the logits are cosines, on whose softmax no "
                "class can become likely; give a loss that scales them, such as NormalizedSoftmax "
                f"(objective=normalized_softmax), or leave the term out (~objective.terms.{name})."
            )


def last_linear(network: nn.Module) -> nn.Linear:
    """The linear layer that a network ends with.

    Raises:
        ValueError: a network whose last layer with parameters is no linear one.

    Example:
        >>> last_linear(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        Linear(in_features=3, out_features=2, bias=True)
    """
    owning = [part for part in network.modules() if any(True for _ in part.parameters(recurse=False))]
    if not owning or not isinstance(owning[-1], nn.Linear):
        came = f"a {type(owning[-1]).__name__}" if owning else "no layer with parameters"
        raise ValueError(
            f"MetricLearner: {type(network).__name__} ends with {came}; give a network that ends with an nn.Linear, "
            "whose outputs are the embeddings."
        )
    return owning[-1]
