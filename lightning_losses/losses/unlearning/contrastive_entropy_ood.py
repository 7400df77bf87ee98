"""Contrastive entropy: each sample's masked view is like few of the batch's frozen clean views."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.settings import NonNegative
from lightning_losses.numerics.vectors import alike_vectors, refuse_powers


class ContrastiveEntropyOOD(Loss):
    """Contrastive entropy of O3: each sample's masked view is like few of the batch's frozen clean views.

    ``-1/B sum_ij s_ij log(s_ij + ε)`` with ``s_i = softmax_j(z_i · k_j)``, z the trained encoder's mean-pooled
    states of a masked view, k a frozen encoder's of the clean one. Products are neither normalised nor divided by a
    temperature. The entropy falls when a row chooses any sample, its own or not. It stands beside masked language
    modelling, a term for each layer, and makes an encoder whose states tell texts to forget from others.

    Args:
        eps: ε, at least 0.

    Shapes:
        embeddings: [B, D] of one layer; target_embeddings: [B, D], constant.

    Returns:
        A scalar from about 0 to log B; 0 for an empty batch.

    Raises:
        ValueError: shapes or dtypes that do not fit; an eps below 0; embeddings whose squares are too large, on a CPU.

    Source:
        Gao, Wang, Ding, Weng, Wang, Zhu, 2024, "On Large Language Model Continual Unlearning", arXiv:2407.10223, and
        its code GCYZSL/O3-LLM-UNLEARNING, whose frozen encoder is meant as a moving average that it doesn't move.

    Example:
        >>> same = torch.ones(4, 2)
        >>> round(ContrastiveEntropyOOD(eps=0.0)(same, same).item(), 4)  # log 4
        1.3863
    """

    batch_coupled = True
    status = "confirmed"
    evidence = "GCYZSL/O3-LLM-UNLEARNING"

    eps: NonNegative = 1e-5

    def forward(
        self, embeddings: Float[Tensor, "batch dim"], target_embeddings: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        states, frozen = alike_vectors(self._identifier, embeddings=embeddings, target_embeddings=target_embeddings)
        if len(states) == 0:
            return states.sum()
        refuse_powers(self._identifier, 2, embeddings=states, target_embeddings=frozen)
        with torch.autocast(embeddings.device.type, enabled=False):
            log_s = (states @ frozen.detach().mT).log_softmax(dim=1)
            share = log_s.exp()
            logarithm = (share + self.eps).log() if self.eps else log_s
            return -(share * logarithm).sum(dim=1).mean()
