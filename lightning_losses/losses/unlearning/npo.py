"""Negative preference optimisation: a sequence to forget becomes less likely than the reference has it."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.unlearning.forgetting import ForgottenSequences
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import Positive
from lightning_losses.numerics.token_sequences import completions, token_sum


class NPO(ForgottenSequences):
    """Negative preference optimisation: a sequence to forget becomes less likely than the reference has it.

    ``-(2/β) log σ(-β r)`` with ``r = sum_t log p_t - log p_ref,t``, the log-ratio of the whole sequence: DPO without
    the preferred answer. Its gradient is that of `gradient_ascent` on the sum of the sequence, times ``2 σ(β r)``: a
    sequence that is forgotten, with r far below 0, pulls no more. For β to 0 it is gradient ascent.

    Args:
        beta: β, above 0; the larger, the sooner a sequence counts as forgotten.

    Shapes:
        forget_logps, ref_forget_logps: [B, T] log-probabilities of the tokens to forget, the trained model's and the
        reference's; forget_mask (optional): [B, T], other than 0 for a token that counts.

    Returns:
        A scalar, or [B] without reduction; at least 0, ``(2/β) log 2`` where the model is the reference, and 0 without
        a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; a beta of 0 or less.

    Source:
        Zhang, Lin, Bai, Mei, 2024, "Negative Preference Optimization: From Catastrophic Collapse to Effective
        Unlearning", arXiv:2404.05868, with β = 0.1. The values are those of locuslab/open-unlearning.

    Example:
        >>> round(NPO(beta=0.5)(torch.full((1, 2), -1.0), torch.full((1, 2), -1.0)).item(), 4)  # 4 log 2
        2.7726
    """

    status = "paper"
    evidence = "locuslab/open-unlearning, not the authors' code"

    beta: Positive = 0.1

    def forward(
        self,
        forget_logps: Float[Tensor, "batch tokens"],
        ref_forget_logps: Float[Tensor, "batch tokens"],
        forget_mask: Shaped[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check and evaluate; see the class."""
        given = completions(self._identifier, "forget_logps", forget_logps, forget_mask, ref_forget_logps)
        with torch.autocast(forget_logps.device.type, enabled=False):
            ratio = token_sum(given.log_ratios, given.kept)
            return self.reduced(softplus(self.beta * ratio) * (2 / self.beta), given.kept)
