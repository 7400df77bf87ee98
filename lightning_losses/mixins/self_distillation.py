"""The mixin in which a network learns from itself: from its own past predictions, or from an inner stage."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.sample_memory import Columns, Given, Kept
from lightning_losses.mixins.sample_states import Remembered, SampleState
from lightning_losses.mixins.tapped_features import TappedFeatures
from lightning_losses.numerics.probabilities import full_precision, probabilities


class PastProbabilities:
    """The network's latest prediction for each sample; the one-hot target for a sample not seen yet.

    The row of a prediction adds up to 1; the row of a sample not seen yet is 0.
    """

    kept_on: Literal["host", "device"] = "host"

    def fresh(self, given: Given) -> Columns:
        """Zeros."""
        return {"probabilities": full_precision(given["logits"].detach()).new_zeros(given["logits"].shape[1:])}

    def recall(self, kept: Kept, given: Given) -> Float[Tensor, "batch classes"]:
        """The past prediction."""
        target, classes = given["target"], given["logits"].shape[-1]
        # An ignored sample may get any class.
        named = target if target.is_floating_point() else target.masked_fill((target < 0) | (target >= classes), 0)
        past = kept("probabilities").to(target.device)
        one_hot = (named if target.is_floating_point() else F.one_hot(named, classes)).to(past)
        return torch.where((past != 0).any(dim=-1, keepdim=True), past, one_hot)

    def remember(self, kept: Kept, given: Given) -> Columns:
        """This step's prediction."""
        return {"probabilities": probabilities(full_precision(given["logits"].detach()))}


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

    def sample_memories(self) -> dict[str, Remembered]:
        """Past predictions too, if the objective takes them."""
        memories = super().sample_memories()
        if self.objective.needs("past_probabilities"):
            memories.setdefault("past_probabilities", Remembered(PastProbabilities()))
        return memories

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore past predictions, also from a checkpoint with their former name."""
        super().on_load_checkpoint(checkpoint)
        if saved := checkpoint.get("past_predictions"):
            state = self.sample_states["past_probabilities"] = SampleState("past_probabilities")
            state.load_state_dict({"probabilities": saved["probabilities"]})
