"""Sigmoid contrast (SigLIP): each pair of the two sets is told to match or not, by itself."""

import math
from dataclasses import field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.losses.contrastive.views import unit_views
from lightning_losses.numerics.settings import Temperature
from lightning_losses.parallel.processes import whole_parameter
from lightning_losses.similarities import partner_logistic


class SigmoidContrastive(Loss):
    """Sigmoid contrastive loss (SigLIP): each pair of the two sets is told to match or not, by itself.

    ``(1/B) sum_ij softplus(-z_ij (t s_ij + b))``, with s the cosines of `embeddings` and `embeddings_b`, and z 1 for
    partners and -1 for other pairs. t and b are trained with the network. The matrix of similarities is not held.

    Args:
        temperature: 1 / t at the start, above 0.
        bias: b at the start; negative, because nearly all pairs do not match.

    Shapes:
        embeddings: [B, D]; embeddings_b: [B, D].

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Zhai, Mustafa, Kolesnikov, Beyer, 2023, "Sigmoid Loss for Language Image Pre-Training", arXiv:2303.15343; t and
        b begin as there.

    Example:
        >>> same = torch.ones(1, 2)
        >>> round(SigmoidContrastive()(same, same).item(), 4)  # log 2: t s + b is 0
        0.6931
    """

    batch_coupled = True
    status = "paper"
    evidence = "no golden values of the authors' code; the definition, by another form, in its tests"

    temperature: Temperature = 0.1
    bias: float = -10.0
    log_scale: nn.Parameter = field(init=False)
    offset: nn.Parameter = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.log_scale = nn.Parameter(torch.tensor([-math.log(self.temperature)]))
        self.offset = nn.Parameter(torch.tensor([float(self.bias)]))

    def forward(
        self, embeddings: Float[Tensor, "batch dim"], embeddings_b: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        a, b, _ = unit_views(self._identifier, embeddings, embeddings_b)
        if len(a) == 0:
            return a.sum() + b.sum()
        with torch.autocast(a.device.type, enabled=False):
            scale = whole_parameter(self.log_scale)[0].to(a.dtype).exp()
            return partner_logistic(a, b, scale=scale, bias=whole_parameter(self.offset)[0].to(a.dtype))
