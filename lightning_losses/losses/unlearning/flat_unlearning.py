"""FLAT: an f-divergence between what shall be said and what shall be forgotten, from forget data alone."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.unlearning.forgetting import ForgottenSequences, check_pairs
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.token_sequences import Completions, completions, token_mean

Divergence = Literal["kl", "js", "pearson", "total_variation", "jeffreys"]


class FlatUnlearning(ForgottenSequences):
    """FLAT: a variational f-divergence between a template answer and the text to forget, without data to retain.

    ``-g(P_template) + f*(g(P_forget))``, where P is the mean over a sequence's tokens of their probability, g the
    divergence's variational function and f* its conjugate; both rise, so the template becomes likelier and the text to
    forget less likely, each as much as the other asks for. No reference is needed.

    Args:
        divergence: f: "kl", "js", "pearson", "total_variation" or "jeffreys" (by its series).
        count_ignored: True has P as the authors' code does, which averages over all tokens of the batch before g, and
            counts ignored ones as 0; on several processes, and in accumulated batches, over those of each batch.

    Shapes:
        refusal_logps: [B, S] log-probabilities of the template answers' tokens; forget_logps: [B, T] of the texts to
        forget; refusal_mask, forget_mask (optional): [B, S] and [B, T], other than 0 for a token that counts.

    Returns:
        A scalar, or [B] without reduction: the mean over the pairs with a token to forget, 0 without one.

    Raises:
        ValueError: shapes or dtypes that do not fit; an unknown divergence.

    Source:
        Wang, Zhang, Wang, Wei, Liu, Yang, Shen, Bai, Liu, Wei, 2024, "LLM Unlearning via Loss Adjustment with Only
        Forget Data", arXiv:2410.11143, and its code UCSC-REAL/FLAT. The code's reverse KL, squared Hellinger and Neyman
        raise the probability of what shall be forgotten, and are not here.

    Example:
        >>> half = torch.tensor([[0.5]]).log()
        >>> round(FlatUnlearning("kl")(half, half).item(), 4)  # -1/2 + e^(-1/2)
        0.1065
    """

    status = "confirmed"
    evidence = "UCSC-REAL/FLAT"

    divergence: Divergence = "kl"
    count_ignored: bool = False

    def forward(
        self,
        refusal_logps: Float[Tensor, "batch more"],
        forget_logps: Float[Tensor, "batch tokens"],
        refusal_mask: Shaped[Tensor, "batch more"] | None = None,
        forget_mask: Shaped[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check and evaluate; see the class."""
        refusal = completions(self._identifier, "refusal_logps", refusal_logps, refusal_mask)
        forget = completions(self._identifier, "forget_logps", forget_logps, forget_mask)
        check_pairs(self._identifier, forget_logps, refusal_logps)
        with torch.autocast(forget_logps.device.type, enabled=False):
            template, forgotten = self._probability(refusal), self._probability(forget)
            values = _conjugate(self.divergence, forgotten) - _variational(self.divergence, template)
            return self.reduced(values, forget.kept)

    def _probability(self, given: Completions) -> Float[Tensor, " batch"]:
        """The mean probability of each row's tokens; with `count_ignored` that of the batch, for each row."""
        probabilities = given.logps.exp()
        if not self.count_ignored:
            return token_mean(probabilities, given.kept)
        counted = probabilities.masked_fill(~given.kept, 0.0)
        return (counted.sum() / max(counted.numel(), 1)).expand(len(counted))


def _variational(divergence: str, p: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """g(p)."""
    if divergence == "js":
        return math.log(2) - softplus(-p)
    return p.tanh() / 2 if divergence == "total_variation" else p


def _conjugate(divergence: str, p: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """f*(g(p))."""
    if divergence == "kl":
        return (p - 1).exp()
    if divergence == "js":
        return softplus(p) - math.log(2)
    if divergence == "total_variation":
        return p.tanh() / 2
    square = p + p.square() / 4
    return square if divergence == "pearson" else square + p**3 / 16
