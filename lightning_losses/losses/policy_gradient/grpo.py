"""Group relative policy optimisation: clipped ratios of tokens, with advantages over the other answers to a prompt."""

import math
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.policy_gradient.clipped_policy_loss import ClippedPolicyLoss, Ratios
from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyTokens
from lightning_losses.numerics.settings import Bound, Positive
from lightning_losses.numerics.token_sequences import token_mean


class GRPO(ClippedPolicyLoss):
    """Group relative policy optimisation: clipped ratios of tokens, with advantages over the other answers to a prompt.

    ``-min(min(r, δ) A, clip(r, 1 - ε_low, 1 + ε_high) A) + β KL`` of each token, with ``r = p / p_old`` and A from
    `group_advantage`. The paper averages by "seq_mean" with β = 0.04; "token_mean" with ε_high = 0.28 and β = 0 is
    DAPO, "max_length" with advantages that are not scaled is Dr. GRPO.

    Args:
        delta: δ, above 0, a cap on the ratio; above 1 + ε_high it holds what became likelier with A < 0 alone. None: no
            cap.
        importance_corrected_kl: multiply the KL by r, with r's gradient.
        off_policy_threshold: leave out the completions with A < 0 whose mean of ``log p_old - log p`` is above this,
            above 0; their KL stays, and they still count. None: none.
        top_entropy: the share of tokens, above 0 and at most 1, that keep their policy term: those with the largest
            `entropies`, which below 1 are needed. The share is that of the batch of all processes.

    Shapes:
        logps: [B, T] log-probabilities of the tokens; advantages: [B] or [B, T]; old_logps, completion_mask, ref_logps,
        entropies, sampling_ratio (all optional): [B, T].

    Returns:
        A scalar; 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; a tensor that a setting needs and that did not come.

    Source:
        Shao et al., 2024, "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
        arXiv:2402.03300; DAPO: arXiv:2503.14476; Dr. GRPO: arXiv:2503.20783; the share of entropies: arXiv:2506.01939.
        TRL counts empty completions (`count_empty`), divides by the batches of a step where here each weighs what it
        holds, and averages entropies over tokens whatever the rest does. verl's is `PPOClip` with a dual clip.

    Example:
        >>> logps, advantages = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]]), torch.tensor([1.0, -1.0])
        >>> GRPO()(logps, advantages, logps - 1.0)  # both ratios are e: one is held at 1.2
        tensor(0.7591)
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl and linkedin/Liger-Kernel, not the authors' code"

    delta: Positive | None = None
    importance_corrected_kl: bool = False
    off_policy_threshold: Positive | None = None
    top_entropy: Annotated[float, Bound(above=0, most=1)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # A class attribute elsewhere; here the entropies of all processes decide which tokens are kept.
        self.__dict__["batch_coupled"] = self.top_entropy < 1

    def needed(self) -> dict[str, str]:
        """The optional tensors that the settings ask for."""
        return super().needed() | ({"entropies": f"top_entropy={self.top_entropy}"} if self.top_entropy < 1 else {})

    def ratios(self, given: PolicyTokens) -> Ratios:
        """The ratio of each token."""
        return Ratios(self.clamped(given.log_ratios), given.advantages, given.kept)

    def policy(self, given: PolicyTokens) -> Float[Tensor, "batch tokens"]:
        """What each token costs; 0 of those that are left out."""
        cap = math.inf if self.delta is None else math.log(self.delta)
        value = self.surrogate(self.ratios(given), cap, max(cap, self.log_range()[1]))
        if self.off_policy_threshold is not None:
            drift = token_mean(-given.log_ratios.detach(), given.kept).unsqueeze(1)
            value = value.masked_fill((given.advantages < 0) & (drift > self.off_policy_threshold), 0.0)
        if self.top_entropy < 1 and given.entropies is not None:
            entropies = given.entropies.detach()
            floor = quantile_where(entropies, given.kept, 1 - self.top_entropy)
            value = value.masked_fill(entropies < floor, 0.0)
        return value

    def kl_terms(self, given: PolicyTokens) -> Float[Tensor, "batch tokens"]:
        """The KL of each token to the reference."""
        kl = super().kl_terms(given)
        return kl * self.clamped(given.log_ratios).exp() if self.importance_corrected_kl else kl


def quantile_where(values: Float[Tensor, "..."], kept: Bool[Tensor, "..."], share: float) -> Float[Tensor, ""]:
    """The quantile of what counts, by linear interpolation; inf without any.

    Example:
        >>> quantile_where(torch.tensor([4.0, 1.0, 2.0]), torch.tensor([True, True, False]), 0.5)
        tensor(2.5000)
    """
    ordered = values.masked_fill(~kept, torch.inf).flatten().sort().values
    if len(ordered) == 0:
        return values.new_full((), torch.inf)
    place = share * (kept.sum() - 1).clamp(min=0).to(ordered)
    ends = torch.stack([place.floor(), place.ceil()]).long()
    low, high = ordered.gather(0, ends).unbind()
    # Not by a weighted sum: where nothing counts, both are inf.
    return torch.where(low == high, low, low + (place - place.floor()) * (high - low))
