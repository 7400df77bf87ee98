"""A ready LightningModule: a network, an objective, and the metrics of a classifier."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lightning_losses.data.loading import named
from lightning_losses.environment.logged_means import log_means
from lightning_losses.losses.margins.ebv import EBV
from lightning_losses.mixins import SelfDistillationMixin
from lightning_losses.modules.evaluation import evaluate
from lightning_losses.networks.calls import call, logits_of
from lightning_losses.networks.margin_head import MarginHead
from lightning_losses.objective import Objective
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.processes import world_size

Batch = dict[str, Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], torch.optim.lr_scheduler.LRScheduler]


class _Accuracy(MulticlassAccuracy):
    """Accuracy that is NaN if no process had a sample, where torchmetrics gives 0."""

    def compute(self) -> Tensor:
        """The share of right predictions."""
        counted = torch.as_tensor(self.tp).sum() + torch.as_tensor(self.fn).sum()
        return torch.where(counted > 0, super().compute(), torch.nan)


def with_scheduler(optimizer: Optimizer, make_scheduler: SchedulerFactory | None) -> Any:
    """The result of `configure_optimizers`: an optimizer and, if there is one, its scheduler for every step."""
    if make_scheduler is None:
        return optimizer
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make_scheduler(optimizer), "interval": "step"}}


def parameters_to_train(module: nn.Module, objective: Objective) -> Iterable[Any]:
    """A module's parameters; in a group without weight decay those of a balancing policy, and a loss's single numbers.

    Decay would pull a learned temperature to 1, and the bias of sigmoid contrast to 0.
    """
    policy = [] if objective.balancing is None else list(objective.balancing.parameters())
    single = [one for one in objective.parameters() if not is_lazy(one) and one.numel() == 1]
    learned = list({id(parameter): parameter for parameter in [*policy, *single]}.values())
    if not learned:
        return module.parameters()
    known = {id(parameter) for parameter in learned}
    others = [parameter for parameter in module.parameters() if id(parameter) not in known]
    return [{"params": others}, {"params": learned, "weight_decay": 0.0}]


def refuse_trained_vectors(who: str, network: nn.Module, objective: Objective) -> None:
    """Raise ``ValueError`` for `EBV` on a `MarginHead` whose class vectors are trained."""
    trained = any(isinstance(part, MarginHead) and not part.fixed for part in network.modules())
    for name, term in objective.terms.items():
        if trained and isinstance(getattr(term, "loss", term), EBV):
            raise ValueError(
                f"{who}: term {name!r} (EBV) came with a MarginHead whose class vectors are trained, and it expects "
                "fixed ones; give the head fixed=True (model.fixed=true), or take NormalizedSoftmax."
            )


class Classifier(SelfDistillationMixin, L.LightningModule):
    """Trains a network on classes with any objective that needs no teacher.

    Batches are mappings with the glossary's names: `inputs`, `target` and, for methods that remember samples, `index`.
    They may also be tuples of the first two, or mappings of `labels` and the network's arguments by name. Validation
    and test log cross-entropy as ``loss``, ``accuracy`` and 15-bin ``ece`` of the samples whose target no term ignores,
    and return ``{"loss", "logits", "target"}`` for callbacks. For accuracy and ECE a target of probabilities counts as
    its likeliest class; one with only zeros is ignored. An epoch without a kept sample logs nothing, or NaN on several
    processes.

    Args:
        network: maps `inputs` to logits [B, C], in any form that `logits_of` reads; inputs in a mapping are passed by
            name.
        objective: the objective to minimise. If it takes `features` or `feature_maps`, the network's last but one stage
            is tapped.
        num_classes: C.
        optimizer: a function that makes the optimizer from the parameters; AdamW with its defaults if None.
        scheduler: a function that makes a learning-rate scheduler; it is stepped at every optimizer step.
        feature_layer: the layer to tap instead of the last but one stage; several layers, or "all" stages, for losses
            that take maps by layer.
        example_inputs: a batch of inputs, needed only if a loss takes its shapes from the features.

    Example:
        >>> from lightning_losses import CrossEntropy
        >>> module = Classifier(nn.Linear(4, 3), Objective({"ce": CrossEntropy()}), num_classes=3)
        >>> batch = {"inputs": torch.zeros(2, 4), "target": torch.tensor([0, 1])}
        >>> round(module.training_step(batch, 0)["loss"].item(), 1) > 0
        True
    """

    logged_as = "{stage}/loss"

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        num_classes: int,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        feature_layer: str | Sequence[str] | None = None,
        example_inputs: Float[Tensor, "batch ..."] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        refuse_trained_vectors(type(self).__name__, network, objective)
        self.make_optimizer: OptimizerFactory = optimizer or torch.optim.AdamW
        self.make_scheduler = scheduler
        if objective.needs("features") or objective.needs("feature_maps"):
            self.tap_features(network, feature_layer)
            if objective.lazy:
                if example_inputs is None:
                    raise ValueError(
                        f"{type(self).__name__}: the objective takes its shapes from the features; give "
                        "example_inputs=, a batch of inputs, or the loss its feature_dim."
                    )
                self.materialize_objective(network, example_inputs)
        metrics = MetricCollection(
            {
                "accuracy": _Accuracy(num_classes, average="micro"),
                "ece": MulticlassCalibrationError(num_classes, n_bins=15),
            }
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def forward(self, inputs: Any) -> Float[Tensor, "batch classes"]:
        """The logits of a batch of inputs."""
        return logits_of(f"{type(self).__name__}: the network", call(self.network, inputs))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch."""
        given = named(type(self).__name__, batch)
        return self.apply_objective(logits=self(given["inputs"]), **given)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Metrics on one batch."""
        return self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Metrics on one batch."""
        return self._evaluate(batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The logits of one batch, and its target if it has one."""
        given = named(type(self).__name__, batch)
        labelled = {"target": given["target"]} if "target" in given else {}
        return {"logits": self(given["inputs"]), **labelled}

    def configure_optimizers(self) -> Any:
        """One optimizer for the network and for the objective's own parameters."""
        return with_scheduler(self.make_optimizer(parameters_to_train(self, self.objective)), self.make_scheduler)

    def _evaluate(self, batch: Batch, metrics: MetricCollection) -> dict[str, Tensor]:
        given = named(type(self).__name__, batch)
        logits, target = self(given["inputs"]), given["target"]
        measured = evaluate(logits, target, *ignored_targets(self))
        if measured.samples:
            metrics.update(logits.float()[measured.kept].softmax(dim=-1), measured.label)
        log_means(self, {f"{metrics.prefix}loss": measured.loss}, measured.samples)
        # Other processes may have samples, and all must compute together.
        if measured.samples or world_size() > 1:
            self.log_dict(metrics, batch_size=measured.samples)
        return {"loss": measured.loss, "logits": logits, "target": target}
