"""A ready LightningModule that runs every batch through its network twice."""

from lightning_losses.mixins.second_pass import SecondPassMixin
from lightning_losses.modules.classifier import Classifier


class SecondPassClassifier(SecondPassMixin, Classifier):
    """Trains a network with dropout on classes with objectives that take `logits_b`, such as R-Drop.

    Args:
        network, objective, num_classes, optimizer, scheduler, feature_layer, example_inputs: as `Classifier` takes
            them.

    Example:
        >>> import torch
        >>> from lightning_losses import Objective, RDrop
        >>> network = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))
        >>> module = SecondPassClassifier(network, Objective({"rdrop": RDrop()}), num_classes=3)
        >>> batch = {"inputs": torch.ones(2, 4), "target": torch.tensor([0, 1])}
        >>> module.training_step(batch, 0)["loss"].item() > 0
        True
    """
