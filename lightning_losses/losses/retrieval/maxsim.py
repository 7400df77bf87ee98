"""Contrastive loss of token sets: each query finds its own document in the batch by MaxSim."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.maxsim import check_token_sets, maxsim
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.settings import Temperature


class MaxSim(Loss):
    """Contrastive loss of token sets: each query finds its own document in the batch by MaxSim.

    The cross-entropy of the rows of ``S_ij / τ``, whose target is the diagonal, with the scores
    ``S_ij = sum_t max_s cos(q_it, d_js)`` over the tokens t of query i and s of document j. A pair one side of which
    has no token is ignored, and is nobody's negative. `lightning_losses.numerics.maxsim.maxsim` gives the scores alone.

    Args:
        temperature: τ, above 0; a score is a sum over the query's tokens.

    Shapes:
        token_embeddings: [B, T, D] of queries, not normalised; token_embeddings_b: [B, S, D] of documents; token_mask
        (optional): [B, T]; token_mask_b (optional): [B, S], other than 0 for a token.

    Returns:
        A scalar; 0 for a batch of one.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Khattab, Zaharia, 2020, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction
        over BERT", arXiv:2004.12832. It trains on triples of a query with a right and a wrong passage; the batch's
        other documents as negatives are of Santhanam et al., 2021, "ColBERTv2", arXiv:2112.01488.

    Example:
        >>> tokens = torch.eye(3).unsqueeze(1)  # three texts of one token
        >>> round(MaxSim(temperature=0.5)(tokens, tokens).item(), 4)  # log(1 + 2 e^-2)
        0.2395
    """

    batch_coupled = True
    status = "paper"
    evidence = "scores from a numpy evaluation of the paper's formula; the loss from the definition in its tests"

    temperature: Temperature = 1.0

    def forward(
        self,
        token_embeddings: Float[Tensor, "batch tokens dim"],
        token_embeddings_b: Float[Tensor, "batch tokens_b dim"],
        token_mask: Shaped[Tensor, "batch tokens"] | None = None,
        token_mask_b: Shaped[Tensor, "batch tokens_b"] | None = None,
    ) -> Float[Tensor, ""]:
        """Check, score and evaluate; see the class."""
        check_token_sets(self._identifier, token_embeddings=token_embeddings, token_mask=token_mask)
        check_token_sets(self._identifier, token_embeddings_b=token_embeddings_b, token_mask_b=token_mask_b)
        if len(token_embeddings) != len(token_embeddings_b):
            raise ValueError(
                f"{self._identifier}: {len(token_embeddings)} token_embeddings came with {len(token_embeddings_b)} "
                "token_embeddings_b; give as many documents as queries."
            )
        with torch.autocast(token_embeddings.device.type, enabled=False):
            queries, documents = _unit(token_embeddings, token_mask), _unit(token_embeddings_b, token_mask_b)
            kept = _has_tokens(token_embeddings, token_mask) & _has_tokens(token_embeddings_b, token_mask_b)
            scores = maxsim(queries, documents.to(queries), token_mask, token_mask_b) / self.temperature
            # An ignored row is its own only column, so that it has a finite value of 0.
            own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(~(kept.unsqueeze(0) & kept.unsqueeze(1) | own), -torch.inf)
            scores = scores.masked_fill(own & ~kept.unsqueeze(1), 0.0)
            return reduce(torch.logsumexp(scores, dim=-1) - scores.diagonal(), kept=kept)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What the mean divides by: the pairs both sides of which have a token."""
        first, second = tensors["token_embeddings"], tensors["token_embeddings_b"]
        kept = _has_tokens(first, tensors.get("token_mask")) & _has_tokens(second, tensors.get("token_mask_b"))
        return kept.sum()


def _unit(tokens: Float[Tensor, "batch tokens dim"], mask: Shaped[Tensor, "batch tokens"] | None) -> Tensor:
    """Vectors of length 1; padding, whatever it holds, is 0."""
    wide = full_precision(tokens)
    return unit_rows(wide if mask is None else wide.masked_fill((mask == 0).unsqueeze(-1), 0.0))


def _has_tokens(tokens: Float[Tensor, "batch tokens dim"], mask: Shaped[Tensor, "batch tokens"] | None) -> Tensor:
    return tokens.new_ones(len(tokens), dtype=torch.bool) if mask is None else (mask != 0).any(dim=-1)
