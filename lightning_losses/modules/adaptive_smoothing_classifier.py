"""A ready LightningModule that trains the gate between an accurate and a robust classifier."""

from typing import Any

import torch

from lightning_losses.attacks.attack import Attack
from lightning_losses.data.loading import named
from lightning_losses.modules.adversarial_classifier import AdversarialClassifier
from lightning_losses.modules.classifier import Batch
from lightning_losses.networks.adaptive_smoothing import AdaptiveSmoothing
from lightning_losses.numerics.divergences import cross_entropy


class AdaptiveSmoothingClassifier(AdversarialClassifier):
    """Trains the gate of an `AdaptiveSmoothing` on the clean inputs of each batch, followed by the attacked ones.

    Of all of these, twice the batch, the objective gets `logits`, `target`, `gate_score` and, as `gate_target`,
    whether the robust classifier has the lower loss: what `AdaptiveSmoothingLoss` takes. The attack goes through the
    gate.

    Args:
        attack: the attack of training.
        **classifier: as `Classifier` takes them; `network` is an `AdaptiveSmoothing` with a module as gate.

    Raises:
        ValueError: a network without a gate that could be trained.

    Source:
        Bai, Anderson, Kim, Sojoudi, 2023, "Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive
        Smoothing", arXiv:2301.12554; in their code the gate's target is the accurate classifier for clean inputs, and
        mostly the robust one for attacked inputs; here that of the lower loss for both.

    Example:
        >>> from torch import nn
        >>> from lightning_losses import AdaptiveSmoothingLoss, Objective
        >>> from lightning_losses.attacks import PGD
        >>> network = AdaptiveSmoothing(nn.Linear(4, 3), nn.Linear(4, 3), gate=nn.Linear(6, 1))
        >>> objective = Objective({"gate": AdaptiveSmoothingLoss()})
        >>> module = AdaptiveSmoothingClassifier(PGD(steps=2), network=network, objective=objective, num_classes=3)
        >>> module.training_step({"inputs": torch.rand(2, 4), "target": torch.tensor([0, 1])}, 0)["logits"].shape
        torch.Size([4, 3])
    """

    network: AdaptiveSmoothing

    def __init__(self, attack: Attack, **classifier: Any) -> None:
        super().__init__(attack, **classifier)
        if not isinstance(self.network, AdaptiveSmoothing) or self.network.gate is None:
            raise ValueError(
                f"AdaptiveSmoothingClassifier: network={type(self.network).__name__} came; give an AdaptiveSmoothing "
                "whose gate is a module."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective of a batch's clean and attacked inputs."""
        given = named(type(self).__name__, batch)
        inputs = torch.cat([given["inputs"], self.attacked_inputs(given)])
        target = torch.cat([given["target"]] * 2)
        mixed = self.network.mixture(inputs)
        # What an objective ignores may be no class.
        classes = target.clamp(min=0, max=mixed.accurate.shape[-1] - 1)
        robust, accurate = (cross_entropy(log_p, classes) for log_p in (mixed.robust, mixed.accurate))
        return self.apply_objective(
            inputs=inputs,
            logits=mixed.log_probabilities,
            target=target,
            gate_score=mixed.gate_score,
            gate_target=(robust < accurate).to(mixed.gate_score),
        )
