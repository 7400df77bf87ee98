"""DANN: a discriminator learns to tell the domains by the features, and the features learn that it can't."""

import math
from dataclasses import field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.networks.gradient_reversal import reverse_gradient
from lightning_losses.numerics.checks import check_embeddings, check_number, debugging
from lightning_losses.numerics.domains import check_domains
from lightning_losses.numerics.probabilities import full_precision, known_somewhere
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.settings import Count, NonNegative


class DANN(Loss):
    """DANN: a discriminator learns to tell the domains by the features, and the features learn that it can't.

    The cross-entropy of the domains by a small network of the features, whose gradient is multiplied by
    ``-λ``, ``λ = 2 / (1 + exp(-γ progress)) - 1``, where it enters the features. So the discriminator, which belongs to
    the loss and is trained and saved with it, minimises what the network maximises, and the network does so little at
    first. The term's weight scales both; λ the network alone. Samples without a label count too.

    Args:
        num_domains: E, at least 1.
        gamma: γ, at least 0, how fast λ rises from 0 to 1.
        hidden: the width of the discriminator's hidden layer, at least 1.
        feature_dim: D, the width of the features, at least 1; None takes it from the first batch.
        reduction: "mean" over the samples, "sum", or "none".

    Shapes:
        features: [B, D]; domain: [B] int64, from 0 to E - 1; progress: the fraction of training done, in [0, 1].

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a progress outside [0, 1] or a domain out of range, of tensors
            on a CPU and under `debug`.

    Source:
        Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand, Lempitsky, 2015, "Domain-Adversarial
        Training of Neural Networks", arXiv:1505.07818. DomainBed takes turns of two optimizers in place of the
        reversal, with a constant λ.

    Example:
        >>> loss, domain = DANN(num_domains=2, feature_dim=3), torch.tensor([0, 1])
        >>> features = torch.randn(2, 3, requires_grad=True)
        >>> [torch.autograd.grad(loss(features, domain, progress=p), features)[0].any().item() for p in (0.0, 1.0)]
        [False, True]
    """

    status = "paper"
    evidence = "an independent evaluation of the paper's formula"

    num_domains: Count
    gamma: NonNegative = 10.0
    hidden: Count = 64
    feature_dim: Count | None = None
    reduction: Reduction = field(default="mean", kw_only=True)
    discriminator: nn.Sequential = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        dim, hidden = self.feature_dim, self.hidden
        first = nn.LazyLinear(hidden) if dim is None else nn.Linear(dim, hidden)
        self.discriminator = nn.Sequential(first, nn.ReLU(), nn.Linear(hidden, self.num_domains))

    def forward(
        self,
        features: Float[Tensor, "batch dim"],
        domain: Int[Tensor, " batch"],
        progress: float | Float[Tensor, ""],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        check_embeddings(self._identifier, "features", features)
        # 0 before the first batch, where that tells the width.
        if features.shape[1] != (wanted := self.discriminator[0].in_features or features.shape[1]):
            raise ValueError(
                f"{self._identifier}: features of shape {list(features.shape)} came for a discriminator of {wanted} "
                "features; give as many, or another feature_dim."
            )
        check_domains(
            self._identifier, domain, features[:, 0], self.num_domains, setting="num_domains", name="features' rows"
        )
        with torch.autocast(features.device.type, enabled=False):
            reversed_features = reverse_gradient(full_precision(features), self.strength(progress))
            dtype = next(self.discriminator.parameters()).dtype
            logits = full_precision(self.discriminator(reversed_features.to(dtype)))
            return reduce(F.cross_entropy(logits, domain, reduction="none"), self.reduction)

    def strength(self, progress: float | Float[Tensor, ""]) -> float | Float[Tensor, ""]:
        """λ at this fraction of training.

        Example:
            >>> [round(DANN(num_domains=2).strength(progress), 4) for progress in (0.0, 0.1, 1.0)]
            [0.0, 0.4621, 0.9999]
        """
        if isinstance(progress, Tensor):
            # NaN is within no range.
            wrong = ~((progress >= 0) & (progress <= 1))
            if known_somewhere(wrong) or (debugging() and bool(wrong.any())):
                raise ValueError(f"{self._identifier}: progress={progress.item()} came; give a fraction from 0 to 1.")
            return torch.tanh(self.gamma * progress / 2)
        check_number(self._identifier, "progress", progress, least=0, most=1)
        return math.tanh(self.gamma * progress / 2)
