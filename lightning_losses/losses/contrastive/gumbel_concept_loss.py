"""Contrast of samples and concepts through Gumbel softmax: each sample is to pick its own concept under noise."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.counter_random import counter_uniforms
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Seed, Temperature
from lightning_losses.numerics.vectors import alike_vectors


class GumbelConceptLoss(Loss):
    """Contrast of samples and concepts through Gumbel softmax: each sample is to pick its own concept under noise.

    ``-½ mean_i (log y_ii + log y'_ii)``, y and y' being the softmax over rows and over columns of
    ``(cos(a_i, b_j) / τ + g_ij) / τ_g`` with Gumbel noise g. Without noise and at τ_g = 1 it is the symmetric contrast
    of CLIP. The authors' code averages over all entries in place of those on the diagonal, which has no positive pair
    and pulls towards equal probabilities; ``entries="all"`` is that.

    The noise is a function of `loss_seed` and `step` alone, so that processes and resumed runs have the same; in
    evaluation there is none.

    Args:
        temperature: τ, above 0; the inverse of CLIP's scale of logits.
        gumbel_temperature: τ_g, above 0.
        entries: "diagonal", the pairs that belong together, or "all".
        loss_seed: of the noise, at least 0.

    Shapes:
        embeddings: [B, D] of samples, not normalised; embeddings_b: [B, D] of their concepts' texts; step: a scalar, 0
        without one.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Semenov, Ivanov, Beznosikov, Gasnikov, 2024, "Sparse Concept Bottleneck Models: Gumbel Tricks in Contrastive
        Learning", arXiv:2404.03323, and its code Andron00e/SparseCBM.

    Example:
        >>> loss = GumbelConceptLoss().eval()
        >>> round(loss(torch.eye(3), torch.eye(3), step=0).item(), 4)
        0.0
    """

    batch_coupled = True
    status = "paper"
    evidence = "no golden values: its noise is drawn; the formula in its tests"

    temperature: Temperature = 0.01
    gumbel_temperature: Temperature = 1.0
    entries: Literal["diagonal", "all"] = "diagonal"
    loss_seed: Seed = 0

    def forward(
        self, embeddings: Float[Tensor, "batch dim"], embeddings_b: Float[Tensor, "batch dim"], step: float = 0.0
    ) -> Float[Tensor, ""]:
        """Check and evaluate; the class documents what."""
        samples, concepts = alike_vectors(self._identifier, embeddings=embeddings, embeddings_b=embeddings_b)
        if len(samples) == 0:
            return samples.sum() + concepts.sum()
        with torch.autocast(samples.device.type, enabled=False):
            scores = unit_rows(samples) @ unit_rows(concepts).mT / self.temperature
            values = [
                -log_probabilities(self._noisy(one, step, number), self.gumbel_temperature)
                for number, one in enumerate((scores, scores.mT))
            ]
            picked = [value.diagonal() if self.entries == "diagonal" else value for value in values]
            return (picked[0].mean() + picked[1].mean()) / 2

    def _noisy(self, scores: Float[Tensor, "batch batch"], step: float, number: int) -> Float[Tensor, "batch batch"]:
        if not self.training:
            return scores
        uniform = counter_uniforms(scores.detach(), 2 * self.loss_seed + number, step)
        return scores - torch.log(-torch.log(uniform))
