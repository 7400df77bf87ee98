"""A ready LightningModule that trains on mixtures of samples of two domains."""

from typing import Any

from lightning_losses.mixins.domain_mixup import DomainMixupMixin
from lightning_losses.modules.classifier import Classifier
from lightning_losses.numerics.checks import check_count, check_number


class DomainMixupClassifier(DomainMixupMixin, Classifier):
    """Trains a network on classes with objectives that take mixtures across domains; see `DomainMixupMixin`.

    Args:
        num_domains: the domains of training, at least 1.
        mixup_alpha: the parameter of the Beta distribution of a mixture's shares, above 0.
        **classifier: see `Classifier`.

    Example:
        >>> import torch
        >>> from lightning_losses import CrossEntropy, Objective, Term
        >>> mixtures = {"logits": "mixup_logits", "target": "mixup_target"}
        >>> objective = Objective({"mixup": Term(CrossEntropy(), inputs=mixtures)})
        >>> network = torch.nn.Linear(4, 3)
        >>> module = DomainMixupClassifier(num_domains=2, network=network, objective=objective, num_classes=3)
        >>> batch = {"inputs": torch.randn(2, 4), "target": torch.tensor([0, 1]), "domain": torch.tensor([0, 1])}
        >>> module.training_step(batch, 0)["loss"].shape
        torch.Size([])
    """

    def __init__(self, num_domains: int, mixup_alpha: float = 0.2, **classifier: Any) -> None:
        super().__init__(**classifier)
        check_count("DomainMixupClassifier", "num_domains", num_domains)
        check_number("DomainMixupClassifier", "mixup_alpha", mixup_alpha, above=0)
        self.num_domains = num_domains
        self.mixup_alpha = mixup_alpha
