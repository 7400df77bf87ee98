"""A ready LightningModule that trains on mixtures made inside of its network."""

from collections.abc import Sequence
from typing import Any

from lightning_losses.mixins.manifold_mixup import ManifoldMixupMixin
from lightning_losses.modules.mixup_classifier import MixupClassifier


class ManifoldMixupClassifier(ManifoldMixupMixin, MixupClassifier):
    """Trains a network on classes with objectives that take mixtures, made at its layers; see `ManifoldMixupMixin`.

    Args:
        manifold_layers: the names of the network's layers that are drawn from, beside the input.
        mixup_alpha: the Dirichlet concentration of a mixture's weights, above 0.
        **classifier: as `MixupClassifier` takes them.

    Example:
        >>> import torch
        >>> from lightning_losses import CrossEntropy, Objective, Term
        >>> term = Term(CrossEntropy(), inputs={"logits": "mixup_logits", "target": "mixup_target"})
        >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
        >>> module = ManifoldMixupClassifier(["0"], network=network, objective=Objective({"ce": term}), num_classes=3)
        >>> batch = {"inputs": torch.randn(2, 4), "target": torch.tensor([0, 1])}
        >>> module.training_step(batch, 0)["loss"].shape
        torch.Size([])
    """

    def __init__(self, manifold_layers: Sequence[str], mixup_alpha: float = 2.0, **classifier: Any) -> None:
        super().__init__(mixup_alpha=mixup_alpha, **classifier)
        self.manifold_layers = [f"network.{layer}" for layer in manifold_layers]
