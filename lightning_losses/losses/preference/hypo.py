"""HyPO: DPO of given pairs, and the divergence from the reference on the policy's own completions."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.alignment.reference_kl import score
from lightning_losses.losses.alignment.samples import named_completions, samples_per_prompt
from lightning_losses.losses.preference.preference_loss import PreferenceLoss, PreferencePairs
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rloo_advantage import rloo_advantage
from lightning_losses.numerics.settings import Positive, Weight
from lightning_losses.numerics.token_sequences import token_sum


class HyPO(PreferenceLoss):
    """Hybrid preference optimization: DPO of given pairs, and a KL term on the policy's own completions.

    ``-log σ(β (r_w - r_l)) + (λ/K) sum_k r_k`` with r the sum over a completion's tokens of ``log p - log p_ref``, for
    K completions of each prompt that the policy sampled just now. The second part's gradient is that of
    ``KL(p || p_ref)`` by its score: ``(λ/K) sum_k (r_k - b_k) ∇ log p(y_k)``, where b_k is the mean of the prompt's
    other r, which leaves the expectation as it is. DPO bounds the divergence on its pairs alone; what the policy says
    beyond them is held by the second part.

    Args:
        beta: β, above 0.
        kl_weight: λ, at least 0. The paper's values are not known to us; 0 is DPO.
        leave_out: whether b_k is subtracted; with K = 1 there is none.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional): [B, T]; rejected_logps, ref_rejected_logps,
        rejected_mask (optional): [B, S]; logps, ref_logps, completion_mask (optional): [B K, U], those of a prompt one
        after the other.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; sampled completions whose number is no multiple of B.

    Source:
        Song, Swamy, Singh, Bagnell, Sun, 2024, "The Importance of Online Data: Understanding Preference Fine-tuning via
        Coverage", arXiv:2406.01462. Another method of this name replaces the log ratio of DPO's reference; it is not
        this one.

    Example:
        >>> same = torch.tensor([[-1.0]])
        >>> round(HyPO()(same, same, same, same, same, same).item(), 4)  # log 2
        0.6931
    """

    status = "paper"
    evidence = "no golden values: no code of the authors was seen; without its KL term it is DPO"

    beta: Positive = 0.1
    kl_weight: Weight = 0.1
    leave_out: bool = True

    def forward(
        self,
        chosen_logps: Float[Tensor, "pairs tokens"],
        rejected_logps: Float[Tensor, "pairs others"],
        ref_chosen_logps: Float[Tensor, "pairs tokens"],
        ref_rejected_logps: Float[Tensor, "pairs others"],
        logps: Float[Tensor, "samples further"],
        ref_logps: Float[Tensor, "samples further"],
        chosen_mask: Shaped[Tensor, "pairs tokens"] | None = None,
        rejected_mask: Shaped[Tensor, "pairs others"] | None = None,
        completion_mask: Shaped[Tensor, "samples further"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        for name, reference in (("ref_chosen_logps", ref_chosen_logps), ("ref_rejected_logps", ref_rejected_logps)):
            check_floating(self._identifier, name, reference)
        given = self.given(
            chosen_logps, rejected_logps, chosen_mask, rejected_mask, ref_chosen_logps, ref_rejected_logps
        )
        own = named_completions(
            self._identifier, ("logps", logps), ("completion_mask", completion_mask), ("ref_logps", ref_logps)
        )
        prompts = len(given.chosen.logps)
        shape = prompts, samples_per_prompt(self._identifier, "logps", len(own.logps), prompts)
        with torch.autocast(logps.device.type, enabled=False):
            r = token_sum(own.log_ratios, own.kept).detach().view(shape)
            weight = (
                rloo_advantage(r.flatten(), group_size=shape[1], singleton="raw").view(shape) if self.leave_out else r
            )
            kl = r - weight + score(weight, token_sum(own.logps, own.kept).view(shape))
            return reduce(self.pairs(given) + self.kl_weight * kl.mean(dim=1), self.reduction, given.kept)

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair, without the divergence."""
        return softplus(-self.beta * given.margins)
