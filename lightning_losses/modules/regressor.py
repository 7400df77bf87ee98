"""A ready LightningModule for regressions: a network, the head that its objective takes, and the errors."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

from lightning_losses.data.loading import named
from lightning_losses.losses import HLGauss, Pinball, TwoHot
from lightning_losses.losses.regression.evidential_regression import evidential_uncertainty
from lightning_losses.mixins import ObjectiveMixin
from lightning_losses.modules.classifier import (
    Batch,
    OptimizerFactory,
    SchedulerFactory,
    parameters_to_train,
    with_scheduler,
)
from lightning_losses.networks.calls import call
from lightning_losses.networks.distribution_heads import (
    BinsHead,
    DistributionHead,
    EnsembleHead,
    EvidentialHead,
    GaussianHead,
    MeanHead,
    QuantileHead,
    WithHead,
)
from lightning_losses.objective import Objective
from lightning_losses.parallel.processes import world_size


class Regressor(ObjectiveMixin, L.LightningModule):
    """Trains a network to predict numbers, and how sure it is of them, by any objective of the regression family.

    Batches are mappings of `inputs` and `target`, floating-point numbers [B] or [B, D], or tuples of the two; losses
    get the target as `regression_target`, beside what the head predicts. Validation and test log the objective as
    ``loss``, and ``rmse`` and ``mae`` of the point prediction; their steps, and `predict_step`, return what was
    predicted, by name.

    Args:
        network: maps `inputs` to predictions by the glossary's names, such as a `WithHead`; or, with `num_features`, to
            features [B, F].
        objective: what is minimised.
        num_features: F: the module then puts a head on the network that predicts what the objective takes, of one
            target.
        optimizer: makes the optimizer from the parameters; AdamW at its defaults if None.
        scheduler: makes a learning-rate scheduler, stepped every optimizer step.

    Raises:
        ValueError: an objective that no head fits by itself; a network that predicts nothing by name.

    Example:
        >>> from lightning_losses import BetaNLL
        >>> module = Regressor(nn.Linear(4, 8), Objective({"beta_nll": BetaNLL()}), num_features=8)
        >>> sorted(module(torch.zeros(2, 4)))
        ['mean', 'standard_deviation', 'variance']
    """

    logged_as = "{stage}/loss"

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        num_features: int | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        if num_features is not None:
            head = head_of(objective, num_features)
            self.network = WithHead(network, head, with_features=objective.needs("features"))
        self.objective = objective
        self.make_optimizer: OptimizerFactory = optimizer or torch.optim.AdamW
        self.make_scheduler = scheduler
        metrics = MetricCollection({"rmse": MeanSquaredError(squared=False), "mae": MeanAbsoluteError()})
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """What is predicted for a batch of inputs, by the glossary's names."""
        predicted = call(self.network, inputs)
        if not isinstance(predicted, Mapping):
            raise ValueError(
                f"{type(self).__name__}: the network returned a {type(predicted).__name__}; give num_features, the "
                "width of its features, or a network that returns a mapping, as WithHead(network, GaussianHead(64)) "
                "does."
            )
        return dict(predicted)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch."""
        return self._step(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective and the errors on one batch."""
        return self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective and the errors on one batch."""
        return self._evaluate(batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """What is predicted for one batch, beside its target if it has one."""
        given = named(type(self).__name__, batch)
        labelled = {"regression_target": given["target"]} if "target" in given else {}
        return {**self(given["inputs"]), **labelled}

    def configure_optimizers(self) -> Any:
        """One optimizer for the network and for the objective's own parameters."""
        return with_scheduler(self.make_optimizer(parameters_to_train(self, self.objective)), self.make_scheduler)

    def _step(self, batch: Batch) -> dict[str, Any]:
        given = dict(named(type(self).__name__, batch))
        target = given.pop("target")
        return self.apply_objective(**self(given["inputs"]), **given, regression_target=target)

    def _evaluate(self, batch: Batch, metrics: MetricCollection) -> dict[str, Any]:
        output = self._step(batch)
        target = output["regression_target"]
        if len(target):
            metrics.update(point_prediction(output).float().flatten(), target.float().flatten())
        # Other processes may have samples, and all compute together.
        if len(target) or world_size() > 1:
            self.log_dict(metrics, batch_size=len(target))
        return output


def head_of(objective: Objective, num_features: int) -> DistributionHead:
    """The head that predicts what an objective takes, of one target.

    Raises:
        ValueError: an objective that takes nothing of the kind, or things of several heads.

    Example:
        >>> head_of(Objective({"pinball": Pinball(levels=(0.1, 0.5, 0.9))}), 8).numbers
        3
    """
    levels = {len(loss.levels) for loss in objective.modules() if isinstance(loss, Pinball)}
    heads: dict[str, DistributionHead] = {}
    if objective.needs("variance") or objective.needs("standard_deviation"):
        heads["mean and variance"] = GaussianHead(num_features)
    elif objective.needs("mean"):
        heads["mean"] = MeanHead(num_features)
    if objective.needs("quantiles") and len(levels) == 1:
        heads["quantiles"] = QuantileHead(num_features, levels.pop())
    if objective.needs("ensemble"):
        heads["ensemble"] = EnsembleHead(num_features)
    decoders = [loss for loss in objective.modules() if isinstance(loss, HLGauss | TwoHot)]
    if objective.needs("logits") and len(decoders) == 1:
        heads["logits of bins"] = BinsHead(num_features, decoders[0].decode)
    if objective.needs("evidential"):
        heads["evidential"] = EvidentialHead(num_features)
    if len(heads) != 1:
        told = f"it takes {' and '.join(heads)}" if heads else "it takes no prediction of a number"
        raise ValueError(
            f"Regressor: no head fits the objective, since {told}; give a network that returns a mapping of what it "
            "takes, such as a WithHead, and no num_features."
        )
    return next(iter(heads.values()))


def point_prediction(predicted: Mapping[str, Tensor]) -> Float[Tensor, "*values"]:
    """One number for each target: the mean, the middle quantile or that of the middle two, the ensemble's mean, or γ.

    Raises:
        ValueError: nothing of the kind.

    Example:
        >>> point_prediction({"ensemble": torch.tensor([[1.0, 3.0]])})
        tensor([2.])
    """
    if "mean" in predicted:
        return predicted["mean"]
    if "quantiles" in predicted:
        quantiles = predicted["quantiles"].sort(dim=-1).values
        number = quantiles.shape[-1]
        return (quantiles[..., (number - 1) // 2] + quantiles[..., number // 2]) / 2
    if "ensemble" in predicted:
        return predicted["ensemble"].mean(dim=-1)
    if "evidential" in predicted:
        return predicted["evidential"][..., 0]
    raise ValueError(
        f"Regressor: {', '.join(map(repr, predicted)) or 'nothing'} came of the head; give mean, quantiles, ensemble "
        "or evidential."
    )


def predicted_spread(predicted: Mapping[str, Tensor]) -> Float[Tensor, "*values"] | None:
    """How far off each number is expected to be: the standard deviation, with that of the mean if it is predicted.

    None where nothing of the kind was predicted.

    Example:
        >>> predicted_spread({"mean": torch.zeros(1), "variance": torch.full((1,), 4.0)})
        tensor([2.])
    """
    if "standard_deviation" in predicted:
        return predicted["standard_deviation"]
    if "variance" in predicted:
        return predicted["variance"].sqrt()
    if "evidential" in predicted:
        _, aleatoric, epistemic = evidential_uncertainty(predicted["evidential"])
        return (aleatoric + epistemic).sqrt()
    if "ensemble" in predicted and predicted["ensemble"].shape[-1] > 1:
        # Members that agree exactly are still not sure.
        return predicted["ensemble"].std(dim=-1).clamp(min=1e-6)
    return None
