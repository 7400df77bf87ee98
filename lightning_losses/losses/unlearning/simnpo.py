"""SimNPO: negative preference optimisation of the mean log-probability, without a reference."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.unlearning.forgetting import ForgottenSequences
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import NonNegative, Positive
from lightning_losses.numerics.token_sequences import completions, token_mean


class SimNPO(ForgottenSequences):
    """SimNPO: negative preference optimisation of a sequence's mean log-probability, without a reference.

    ``-(2/β) log σ(-β m - γ)`` with ``m = mean_t log p_t``, the mean over the sequence's tokens, by which long sequences
    are pulled no harder than short ones. What counts as forgotten is a low probability of its own, not one below the
    reference's, so that no sequence stops pulling because the reference found it hard already.

    Args:
        beta: β, above 0; the larger, the sooner a sequence counts as forgotten.
        gamma: γ, at least 0; the larger, the less probability a sequence may keep.

    Shapes:
        forget_logps: [B, T] log-probabilities of the tokens to forget; forget_mask (optional): [B, T], other than 0 for
        a token that counts.

    Returns:
        A scalar, or [B] without reduction; at least 0, and 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; a beta of 0 or less; a gamma below 0.

    Source:
        Fan, Liu, Lin, Jia, Zhang, Mei, Liu, 2024, "Simplicity Prevails: Rethinking Negative Preference Optimization for
        LLM Unlearning", arXiv:2410.07163. β is open-unlearning's, whose δ is γ / β here.

    Example:
        >>> round(SimNPO(beta=2.0)(torch.tensor([[-1.0, -3.0]])).item(), 4)  # log(1 + e^-4)
        0.0181
    """

    status = "paper"
    evidence = "no golden values: the definition in its tests, as locuslab/open-unlearning writes it"

    beta: Positive = 4.5
    gamma: NonNegative = 0.0

    def forward(
        self,
        forget_logps: Float[Tensor, "batch tokens"],
        forget_mask: Shaped[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check and evaluate; see the class."""
        given = completions(self._identifier, "forget_logps", forget_logps, forget_mask)
        with torch.autocast(forget_logps.device.type, enabled=False):
            mean = token_mean(given.logps, given.kept)
            return self.reduced(softplus(self.beta * mean + self.gamma) * (2 / self.beta), given.kept)
