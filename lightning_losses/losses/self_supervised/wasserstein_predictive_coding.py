"""Wasserstein predictive coding: InfoNCE with a critic that is held to slopes of 1."""

from dataclasses import field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.counter_random import counter_uniforms
from lightning_losses.numerics.settings import Count, Seed, Weight
from lightning_losses.numerics.vectors import alike_vectors
from lightning_losses.parallel.processes import whole_parameter


class WassersteinPredictiveCoding(Loss):
    """Wasserstein predictive coding: InfoNCE with a critic that is held to slopes of 1.

    ``-mean_i log softmax_j f(a_i, b_j)`` at j = i, plus ``λ mean (|∇f| - 1)²`` at points between pairs (a_i, b_i) and
    shuffled ones. The critic ``f(a, b) = v · softplus(W [a, b] + c)`` belongs to the loss, and is trained and saved
    with it. A critic without large slopes estimates a Wasserstein distance in place of mutual information, of which a
    batch can tell no more than log B: see `dependency`. How far between is a function of `loss_seed` and `step` alone.
    The batch is that of all processes; the value takes B² H memory.

    Args:
        feature_dim: D, the width of the embeddings, at least 1.
        hidden: H, the width of the critic, at least 1.
        penalty_weight: λ, at least 0.
        loss_seed: at least 0.

    Shapes:
        embeddings, embeddings_b: [B, D]; step (optional, 0 without it): a scalar.

    Returns:
        A scalar; 0 for a batch of one.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Ozair, Lynch, Bengio, van den Oord, Levine, Sermanet, 2019, "Wasserstein Dependency Measure for Representation
        Learning", arXiv:1903.11780. The weight of the penalty is that of Gulrajani et al., 2017, arXiv:1704.00028; the
        critic's form is this library's.

    Example:
        >>> loss = WassersteinPredictiveCoding(feature_dim=3)
        >>> loss(torch.randn(4, 3), torch.randn(4, 3), step=0).shape
        torch.Size([])
    """

    batch_coupled = True
    status = "experimental"
    evidence = "no golden values: no code of the authors is known; the definition, by autograd, in its tests"

    feature_dim: Count
    hidden: Count = 64
    penalty_weight: Weight = 10.0
    loss_seed: Seed = 0
    first_layer: nn.Linear = field(init=False)
    last_layer: nn.Linear = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.first_layer = nn.Linear(2 * self.feature_dim, self.hidden)
        self.last_layer = nn.Linear(self.hidden, 1, bias=False)

    def forward(
        self, embeddings: Float[Tensor, "batch dim"], embeddings_b: Float[Tensor, "batch dim"], step: float = 0.0
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        a, b = self._checked(embeddings, embeddings_b)
        if len(a) < 2:
            return (a.sum() + b.sum()) * 0.0
        with torch.autocast(a.device.type, enabled=False):
            scores = self._scores(a, b)
            value = (scores.logsumexp(dim=1) - scores.diagonal()).mean()
            share = counter_uniforms(a[:, :1], self.loss_seed, step)
            slopes = self._slopes(
                *(share * own + (1 - share) * own.roll(-shift, dims=0) for own, shift in ((a, 1), (b, 2)))
            )
            return value + self.penalty_weight * (slopes - 1).square().mean()

    @torch.no_grad()
    def dependency(
        self, embeddings: Float[Tensor, "batch dim"], embeddings_b: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, ""]:
        """The dependency as far as the critic sees it: its mean over pairs less that over all other combinations.

        Example:
            >>> a = torch.randn(4, 3)
            >>> WassersteinPredictiveCoding(feature_dim=3).dependency(a, a.mean(dim=0).expand(4, 3)).abs().item() < 1e-6
            True
        """
        a, b = self._checked(embeddings, embeddings_b)
        with torch.autocast(a.device.type, enabled=False):
            scores = self._scores(a, b)
        own = scores.diagonal()
        return own.mean() - (scores.sum() - own.sum()) / max(scores.numel() - len(own), 1)

    def _checked(self, embeddings: Tensor, embeddings_b: Tensor) -> tuple[Tensor, Tensor]:
        a, b = alike_vectors(self._identifier, embeddings=embeddings, embeddings_b=embeddings_b)
        if a.shape[1] != self.feature_dim:
            raise ValueError(
                f"{self._identifier}: embeddings of shape {list(a.shape)} came with feature_dim={self.feature_dim}; "
                "give as many dimensions."
            )
        return a, b

    def _layers(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The first layer's weights of either embedding, its bias, and the last layer's weights."""
        first, bias, last = (
            whole_parameter(parameter).to(like)
            for parameter in (self.first_layer.weight, self.first_layer.bias, self.last_layer.weight)
        )
        return first[:, : self.feature_dim], first[:, self.feature_dim :], bias, last[0]

    def _scores(self, a: Float[Tensor, "rows dim"], b: Float[Tensor, "columns dim"]) -> Float[Tensor, "rows columns"]:
        of_a, of_b, bias, last = self._layers(a)
        return F.softplus((a @ of_a.mT + bias).unsqueeze(1) + b @ of_b.mT) @ last

    def _slopes(self, a: Float[Tensor, "rows dim"], b: Float[Tensor, "rows dim"]) -> Float[Tensor, " rows"]:
        """The length of the critic's gradient by both embeddings of each pair."""
        of_a, of_b, bias, last = self._layers(a)
        by_hidden = torch.sigmoid(a @ of_a.mT + b @ of_b.mT + bias) * last
        return torch.cat([by_hidden @ of_a, by_hidden @ of_b], dim=1).norm(dim=1)
