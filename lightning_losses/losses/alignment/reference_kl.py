"""Reference KL: how far a policy is from its reference, estimated from sampled tokens."""

from dataclasses import field
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.alignment.samples import count_completions, named_completions
from lightning_losses.losses.base import Loss
from lightning_losses.numerics.kl_estimate import kl_estimate
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.token_sequences import token_mean, token_sum

# A log-ratio counts as no more than this against the policy; exponentials would overflow.
_FARTHEST = 20.0


class ReferenceKL(Loss):
    """The KL divergence of a policy from its reference, estimated from tokens that the policy sampled.

    The mean of `kl_estimate` over a completion's tokens, with ``r = log p - log p_ref``: k1 is ``r``, k2 ``r^2 / 2``,
    k3 ``exp(-r) - 1 + r``, "abs" ``|r|``. k1 and k3 have the divergence as their expectation; k3 is at least 0 and
    varies less. Gradients are another matter: that of k1 is 0 in expectation, that of k2 and of "k3_straight_through"
    the divergence's, and that of k3 the forward divergence's, ``KL(p_ref || p)``, as long as tokens are drawn anew.
    "score" has the value of k1 and the gradient ``r ∇ log p``, which is the divergence's too. With a policy that was
    cloned from demonstrations as reference, it holds another one near these.

    Where all of the vocabulary's probabilities are at hand, the divergence itself varies less: `ForwardKL` and
    `ReverseKL`, or `linear_distillation` without logits.

    Args:
        estimator: "k1", "k2", "k3", "abs", "k3_straight_through" or "score".
        over: "token", the mean over a completion's tokens, or "completion", their sum: the divergence of whole
            completions, where "score" weighs each by its sum.
        reduction: "mean" over completions, "sum", or "none".

    Shapes:
        logps, ref_logps, completion_mask (optional): [B, T]. Completions without a token that counts are left out.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Schulman, 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html. A log-ratio of less than -20
        counts as that here, and keeps its gradient.

    Example:
        >>> ReferenceKL("k3")(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -1.0]]))  # (e - 2) / 2
        tensor(0.3591)
    """

    status = "paper"
    evidence = "values and gradients of volcengine/verl for k1, k2 and k3"

    estimator: Literal["k1", "k2", "k3", "abs", "k3_straight_through", "score"] = "k3"
    over: Literal["token", "completion"] = "token"
    reduction: Reduction = field(default="mean", kw_only=True)

    def forward(
        self,
        logps: Float[Tensor, "batch tokens"],
        ref_logps: Float[Tensor, "batch tokens"],
        completion_mask: Shaped[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        given = named_completions(
            self._identifier, ("logps", logps), ("completion_mask", completion_mask), ("ref_logps", ref_logps)
        )
        total = token_mean if self.over == "token" else token_sum
        with torch.autocast(logps.device.type, enabled=False):
            assert given.reference is not None
            reference = torch.minimum(given.reference, given.logps.detach() + _FARTHEST)
            if self.estimator != "score":
                value = total(kl_estimate(given.logps, reference, self.estimator), given.kept)
            elif self.over == "token":
                value = token_mean(score(given.logps - reference, given.logps), given.kept)
            else:
                value = score(token_sum(given.logps - reference, given.kept), token_sum(given.logps, given.kept))
            return reduce(value, self.reduction, given.lengths > 0)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The number of completions with a token that counts."""
        return count_completions(self._identifier, "logps", tensors["logps"], tensors.get("completion_mask"))


def score(weight: Float[Tensor, "..."], logps: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The weight's value, with the gradient ``weight ∇ logps``.

    Example:
        >>> logps = torch.tensor(-1.0, requires_grad=True)
        >>> value = score(torch.tensor(3.0), logps)
        >>> value.backward()
        >>> value.item(), logps.grad.item()
        (3.0, 3.0)
    """
    weight = weight.detach()
    return weight + weight * (logps - logps.detach())
