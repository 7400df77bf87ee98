"""The mixin in which a network learns from itself: from its own past predictions, or from an inner stage."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.mixins.tapped_features import TappedFeatures
from lightning_losses.parallel.processes import gather_batch
from lightning_losses.teachers.cached_logits import check_positions


class PastPredictions:
    """A table of the latest prediction for every sample of the training set, in host memory."""

    def __init__(self) -> None:
        self.probabilities = torch.zeros(0, 0)
        self.seen = torch.zeros(0, dtype=torch.bool)

    def lookup(
        self, index: Int[Tensor, " batch"], fallback: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes"]:
        """The past prediction for each sample; `fallback` for a sample that was not seen yet."""
        host = index.cpu()
        self._grow(host, fallback.shape[-1])
        past = self.probabilities[host].to(fallback)
        return torch.where(self.seen[host].to(fallback.device).unsqueeze(-1), past, fallback)

    def update(self, index: Int[Tensor, " batch"], probabilities: Float[Tensor, "batch classes"]) -> None:
        """Write this step's predictions; of a repeated index the last stays."""
        host = index.cpu()
        self._grow(host, probabilities.shape[-1])
        latest = probabilities.detach().float().cpu()
        # What is not finite would spoil every later step of its samples.
        finite = torch.isfinite(latest).all(dim=-1)
        self.probabilities[host[finite]] = latest[finite]
        self.seen[host[finite]] = True

    def _grow(self, index: Int[Tensor, " batch"], classes: int) -> None:
        check_positions("past_predictions", index)
        size = int(index.max()) + 1 if len(index) else 0
        if size > len(self.seen):
            larger = max(size, 2 * len(self.seen))
            extra = larger - len(self.seen)
            old = self.probabilities if len(self.seen) else torch.zeros(0, classes)
            self.probabilities = torch.cat([old, torch.zeros(extra, classes)])
            self.seen = torch.cat([self.seen, torch.zeros(extra, dtype=torch.bool)])


class SelfDistillationMixin(TappedFeatures):
    """Lets a network learn from itself: `past_probabilities` for PS-KD, the `features` of an inner stage for USKD.

    Each tensor is computed only if the objective takes it. `past_probabilities` are the network's latest training-mode
    predictions for each sample, or the one-hot target of a sample that was not seen yet; they need the samples' `index`
    in the step. Every process keeps the table, which is updated from all processes and saved in the checkpoint.
    `features` needs one call of `tap_features` in the constructor.

    Example:
        >>> import lightning
        >>> from torch import nn
        >>> from lightning_losses import Objective, USKD
        >>> class Student(SelfDistillationMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        ...         self.objective = Objective({"uskd": USKD(num_classes=3, feature_dim=8)})
        ...         self.tap_features(self.network, "1")
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, target = batch
        ...         return self.apply_objective(inputs=inputs, logits=self.network(inputs), target=target)
        >>> Student().training_step((torch.zeros(2, 4), torch.tensor([0, 1])), 0)["loss"].shape
        torch.Size([])
    """

    @property
    def past_predictions(self) -> PastPredictions:
        """The network's latest prediction for every training sample."""
        table: PastPredictions = self.__dict__.setdefault("_past_predictions", PastPredictions())
        return table

    def on_objective(self, output: dict[str, Any]) -> None:
        """Remember a training step's predictions, if the objective takes past ones."""
        super().on_objective(output)
        # Validation counts its samples from 0 too.
        if self.objective.needs("past_probabilities") and not self.evaluates:
            probabilities = torch.softmax(output["logits"].detach().float(), dim=-1)
            self.past_predictions.update(gather_batch(output["index"]), gather_batch(probabilities))

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add past predictions, where the objective asks for them."""
        tensors = super().objective_tensors(tensors)
        if self.objective.needs("past_probabilities") and "past_probabilities" not in tensors:
            tensors["past_probabilities"] = self._past_probabilities(tensors)
        return tensors

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the table of past predictions."""
        super().on_save_checkpoint(checkpoint)
        table = self.past_predictions
        if len(table.seen):
            # The table is written in place.
            checkpoint["past_predictions"] = {"probabilities": table.probabilities.clone(), "seen": table.seen.clone()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the table of past predictions."""
        super().on_load_checkpoint(checkpoint)
        if saved := checkpoint.get("past_predictions"):
            self.past_predictions.probabilities = saved["probabilities"].to("cpu", copy=True)
            self.past_predictions.seen = saved["seen"].to("cpu", copy=True)

    def _past_probabilities(self, tensors: dict[str, Any]) -> Float[Tensor, "batch classes"]:
        if "index" not in tensors:
            raise ValueError(
                f"{type(self).__name__}: the objective learns from past predictions and needs the samples' "
                f"'index'; the step offered {', '.join(map(repr, sorted(tensors)))}."
            )
        target, classes = tensors["target"], tensors["logits"].shape[-1]
        # Of an ignored sample any class will do.
        named = target if target.is_floating_point() else target.masked_fill((target < 0) | (target >= classes), 0)
        one_hot = named if target.is_floating_point() else F.one_hot(named, classes).float()
        return self.past_predictions.lookup(tensors["index"], one_hot)
