"""PPO's clipped surrogate: the ratio of each token to the policy that sampled it, held near 1."""

import math
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.policy_gradient.clipped_policy_loss import ClippedPolicyLoss, Ratios
from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyTokens
from lightning_losses.numerics.settings import Bound


class PPOClip(ClippedPolicyLoss):
    """PPO's clipped surrogate: the ratio of each token to the policy that sampled it, held near 1.

    ``max(-r A, -clip(r, 1 - ε_low, 1 + ε_high) A)`` with ``r = p / p_old``; where A < 0, at most ``-c A`` with
    `dual_clip`, so that a token that became far likelier can't rule the batch. A is an advantage, such as `gae`'s.

    Args:
        dual_clip: c, above 1; None: no such limit.

    Shapes:
        logps: [B, T] log-probabilities of the tokens; advantages: [B] or [B, T]; old_logps, completion_mask, ref_logps,
        entropies, sampling_ratio (all optional): [B, T].

    Returns:
        A scalar; 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; a tensor that a setting needs and that did not come.

    Source:
        Schulman, Wolski, Dhariwal, Radford, Klimov, 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347;
        the dual clip: Ye et al., 2019, arXiv:1912.09729. verl always clips twice, with c = 3; OpenRLHF if asked; TRL
        never. TRL doesn't hold the logarithm of the ratio within ± 20 either.

    Example:
        >>> import torch
        >>> logps, old_logps = torch.tensor([[-1.0, -1.0]]), torch.tensor([[-1.0, -2.0]])
        >>> round(PPOClip()(logps, torch.tensor([1.0]), old_logps).item(), 4)  # the second ratio is e, held at 1.2
        -1.1
    """

    status = "paper"
    evidence = "values and gradients of volcengine/verl, OpenRLHF/OpenRLHF and huggingface/trl, not the authors' code"

    dual_clip: Annotated[float, Bound(above=1)] | None = None

    def ratios(self, given: PolicyTokens) -> Ratios:
        """The ratio of each token."""
        return Ratios(self.clamped(given.log_ratios), given.advantages, given.kept)

    def policy(self, given: PolicyTokens) -> Float[Tensor, "batch tokens"]:
        """What each token costs."""
        cap = math.inf if self.dual_clip is None else math.log(self.dual_clip)
        return self.surrogate(self.ratios(given), cap_below_0=cap)
