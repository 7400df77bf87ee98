"""IDK: direct preference optimisation of a refusal over the answer that shall be forgotten."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.unlearning.forgetting import ForgottenSequences, check_pairs
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import Positive
from lightning_losses.numerics.token_sequences import completions, token_sum


class IDK(ForgottenSequences):
    """Direct preference optimisation of a refusal, such as "I don't know", over the answer that shall be forgotten.

    ``-(2/β) log σ(β (r_w - r_l))`` with ``r = sum_t log p_t - log p_ref,t``, the log-ratio of a whole sequence: r_w of
    the refusal, r_l of the text to forget. It is DPO's loss times 2/β, so that it can stand in for `npo`, which is this
    without the refusal.

    Args:
        beta: β, above 0.

    Shapes:
        refusal_logps, ref_refusal_logps: [B, S] log-probabilities of the refusals' tokens, the trained model's and the
        reference's; forget_logps, ref_forget_logps: [B, T] the same of the texts to forget; refusal_mask, forget_mask
        (optional): [B, S] and [B, T], other than 0 for a token that counts.

    Returns:
        A scalar, or [B] without reduction; at least 0, and 0 without a token to forget.

    Raises:
        ValueError: shapes or dtypes that do not fit; a beta of 0 or less.

    Source:
        Maini, Feng, Schwarzschild, Lipton, Kolter, 2024, "TOFU: A Task of Fictitious Unlearning for LLMs",
        arXiv:2401.06121; the factor 2/β is that of locuslab/open-unlearning, and of NPO.

    Example:
        >>> same = torch.full((1, 2), -1.0)
        >>> round(IDK(beta=0.5)(same, same, same, same).item(), 4)  # 4 log 2
        2.7726
    """

    status = "paper"
    evidence = "no golden values of its own: DPO's, times 2/β, in its tests"

    beta: Positive = 0.1

    def forward(
        self,
        refusal_logps: Float[Tensor, "batch more"],
        ref_refusal_logps: Float[Tensor, "batch more"],
        forget_logps: Float[Tensor, "batch tokens"],
        ref_forget_logps: Float[Tensor, "batch tokens"],
        refusal_mask: Shaped[Tensor, "batch more"] | None = None,
        forget_mask: Shaped[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check and evaluate; see the class."""
        refusal = completions(self._identifier, "refusal_logps", refusal_logps, refusal_mask, ref_refusal_logps)
        forget = completions(self._identifier, "forget_logps", forget_logps, forget_mask, ref_forget_logps)
        check_pairs(self._identifier, forget_logps, refusal_logps)
        with torch.autocast(forget_logps.device.type, enabled=False):
            won, lost = (token_sum(each.log_ratios, each.kept) for each in (refusal, forget))
            return self.reduced(softplus(self.beta * (lost - won)) * (2 / self.beta), forget.kept)
