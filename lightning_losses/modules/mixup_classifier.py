"""A ready LightningModule that trains on mixtures of its samples."""

from typing import Any

from lightning_losses.mixins.mixup import MixupMixin
from lightning_losses.modules.classifier import Classifier
from lightning_losses.numerics.checks import check_count, check_number


class MixupClassifier(MixupMixin, Classifier):
    """Trains a network on classes with objectives that take mixtures of the batch's samples; see `MixupMixin`.

    Args:
        mixup_count: the mixtures of each sample, at least 1.
        mixup_size: the samples in a mixture, at least 2.
        mixup_alpha: the Dirichlet concentration of a mixture's weights, above 0.
        **classifier: see `Classifier`.

    Example:
        >>> import torch
        >>> from lightning_losses import CrossEntropy, Objective, RankMixupMNDCG
        >>> objective = Objective({"ce": CrossEntropy(), "rankmixup": RankMixupMNDCG()})
        >>> module = MixupClassifier(mixup_count=3, network=torch.nn.Linear(4, 3), objective=objective, num_classes=3)
        >>> batch = {"inputs": torch.randn(2, 4), "target": torch.tensor([0, 1])}
        >>> module.training_step(batch, 0)["loss"].shape
        torch.Size([])
    """

    def __init__(self, mixup_count: int = 1, mixup_size: int = 2, mixup_alpha: float = 1.0, **classifier: Any) -> None:
        super().__init__(**classifier)
        check_count("MixupClassifier", "mixup_count", mixup_count)
        check_number("MixupClassifier", "mixup_size", mixup_size, least=2)
        check_number("MixupClassifier", "mixup_alpha", mixup_alpha, above=0)
        self.mixup_count = mixup_count
        self.mixup_size = mixup_size
        self.mixup_alpha = mixup_alpha
