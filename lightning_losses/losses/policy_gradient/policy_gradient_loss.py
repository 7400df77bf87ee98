"""The kind of policy-gradient losses: what a token of a sampled completion costs, by its ratio and its advantage."""

from abc import abstractmethod
from dataclasses import field
from typing import Annotated, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.losses.policy_gradient.completion_loss import CompletionLoss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.kl_estimate import KLEstimator, kl_estimate
from lightning_losses.numerics.probabilities import finite_logarithms, full_precision
from lightning_losses.numerics.settings import Bound, Weight
from lightning_losses.numerics.token_sequences import completions, token_mask

# The exponential of 80 is finite in float32, and so is a sum of thousands.
LogRatio = Annotated[float, Bound(above=0, most=80)]


class PolicyTokens(NamedTuple):
    """The checked tokens of sampled completions in full precision; where a token does not count, all is neutral.

    A log-probability of -inf is -100, a constant.

    Attributes:
        logps: [B, T] log-probabilities, 0 where a token does not count.
        old_logps: [B, T] of the policy that sampled them, constant.
        advantages: [B, T], constant; one of a completion is repeated.
        completion_advantages: [B]; None if they came for each token.
        kept: [B, T] which tokens count.
        ref_logps: [B, T] of the reference, constant, or None.
        entropies: [B, T], or None.
        sampling_ratio: [B, T], constant, 1 where a token does not count, or None.
    """

    logps: Float[Tensor, "batch tokens"]
    old_logps: Float[Tensor, "batch tokens"]
    advantages: Float[Tensor, "batch tokens"]
    completion_advantages: Float[Tensor, " batch"] | None
    kept: Bool[Tensor, "batch tokens"]
    ref_logps: Float[Tensor, "batch tokens"] | None
    entropies: Float[Tensor, "batch tokens"] | None
    sampling_ratio: Float[Tensor, "batch tokens"] | None

    @property
    def log_ratios(self) -> Float[Tensor, "batch tokens"]:
        """``log p - log p_old``, 0 where a token does not count."""
        return self.logps - self.old_logps


class PolicyGradientLoss(CompletionLoss):
    """A value of each token from its log-probability now, that of sampling it, and an advantage.

    A loss of the kind writes `policy`. The kind adds ``beta KL`` of each token to a reference, which no ratio and no
    advantage multiplies, and subtracts ``entropy_weight H``, both averaged as the rest is. TRL averages entropies over
    tokens whatever the rest does; verl averages them as here.

    Without `old_logps` the policy is taken for the one that sampled: each ratio is 1, and the gradient that of
    REINFORCE.

    Args:
        beta: weight of the KL, at least 0; above 0 it needs `ref_logps`.
        kl: how the KL is estimated: see `lightning_losses.numerics.kl_estimate`.
        entropy_weight: at least 0; above 0 it needs `entropies`.
        log_ratio_clamp: logarithms of ratios are held within ± this, above 0 and at most 80; the gradient is 0 beyond.
            verl has 20; TRL has none, and overflows.
    """

    # Whether `policy` takes the sampling ratio by itself; else it multiplies each token's value.
    takes_sampling_ratio: ClassVar[bool] = False

    beta: Weight = field(default=0.0, kw_only=True)
    kl: KLEstimator = field(default="k3", kw_only=True)
    entropy_weight: Weight = field(default=0.0, kw_only=True)
    log_ratio_clamp: LogRatio = field(default=20.0, kw_only=True)

    @abstractmethod
    def policy(self, given: PolicyTokens) -> Float[Tensor, "batch tokens"]:
        """What each token costs, without KL and entropy."""

    def kl_terms(self, given: PolicyTokens) -> Float[Tensor, "batch tokens"]:
        """The KL of each token to the reference."""
        assert given.ref_logps is not None
        return kl_estimate(given.logps, given.ref_logps, self.kl, log_ratio_clamp=self.log_ratio_clamp)

    def needed(self) -> dict[str, str]:
        """The optional tensors that the settings ask for, each with the setting that does."""
        needed = {"ref_logps": f"beta={self.beta}"} if self.beta > 0 else {}
        return needed | ({"entropies": f"entropy_weight={self.entropy_weight}"} if self.entropy_weight > 0 else {})

    def forward(
        self,
        logps: Float[Tensor, "batch tokens"],
        advantages: Float[Tensor, "batch"] | Float[Tensor, "batch tokens"],
        old_logps: Float[Tensor, "batch tokens"] | None = None,
        completion_mask: Shaped[Tensor, "batch tokens"] | None = None,
        ref_logps: Float[Tensor, "batch tokens"] | None = None,
        entropies: Float[Tensor, "batch tokens"] | None = None,
        sampling_ratio: Float[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, ""]:
        """Check, evaluate and average; see the class."""
        given = self.given(logps, advantages, old_logps, completion_mask, ref_logps, entropies, sampling_ratio)
        value = self.policy(given)
        if given.sampling_ratio is not None and not self.takes_sampling_ratio:
            value = value * given.sampling_ratio
        if self.beta > 0:
            value = value + self.beta * self.kl_terms(given)
        if self.entropy_weight > 0 and given.entropies is not None:
            value = value - self.entropy_weight * given.entropies
        return self.average(value, given.kept)

    def given(
        self,
        logps: Float[Tensor, "batch tokens"],
        advantages: Float[Tensor, "batch"] | Float[Tensor, "batch tokens"],
        old_logps: Float[Tensor, "batch tokens"] | None = None,
        completion_mask: Shaped[Tensor, "batch tokens"] | None = None,
        ref_logps: Float[Tensor, "batch tokens"] | None = None,
        entropies: Float[Tensor, "batch tokens"] | None = None,
        sampling_ratio: Float[Tensor, "batch tokens"] | None = None,
    ) -> PolicyTokens:
        """The checked argument of `policy`."""
        name = self._identifier
        tokens = completions(name, "logps", logps, completion_mask)
        kept = tokens.kept
        beside = {
            key: tensor
            for key, tensor in (
                ("old_logps", old_logps),
                ("ref_logps", ref_logps),
                ("entropies", entropies),
                ("sampling_ratio", sampling_ratio),
            )
            if tensor is not None
        }
        for key, setting in self.needed().items():
            if key not in beside:
                raise ValueError(f"{name}: {setting} came without {key}; give {key}, [batch, tokens].")
        for key, tensor in beside.items():
            check_floating(name, key, tensor)
            if tensor.shape != logps.shape:
                raise ValueError(
                    f"{name}: {key} of shape {list(tensor.shape)} came with logps of shape {list(logps.shape)}; give "
                    "one number for each token."
                )
        held = {
            key: full_precision(tensor if key == "entropies" else tensor.detach()).masked_fill(
                ~kept, 1.0 if key == "sampling_ratio" else 0.0
            )
            for key, tensor in beside.items()
        }
        held |= {key: finite_logarithms(held[key]) for key in ("old_logps", "ref_logps") if key in held}
        check_floating(name, "advantages", advantages)
        if advantages.shape not in (logps.shape, logps.shape[:1]):
            raise ValueError(
                f"{name}: advantages of shape {list(advantages.shape)} came with logps of shape {list(logps.shape)}; "
                f"give one of each completion, {list(logps.shape[:1])}, or of each token."
            )
        fixed = full_precision(advantages.detach())
        whole = fixed.masked_fill(~kept.any(dim=1), 0.0) if fixed.ndim == 1 else None
        each = fixed if whole is None else whole.unsqueeze(1).expand_as(kept)
        return PolicyTokens(
            tokens.logps,
            held.get("old_logps", tokens.logps.detach()),
            each.masked_fill(~kept, 0.0),
            whole,
            kept,
            held.get("ref_logps"),
            held.get("entropies"),
            held.get("sampling_ratio"),
        )

    def counted(self, **tensors: Tensor) -> Bool[Tensor, "batch tokens"]:
        """Which tokens count."""
        return token_mask(self._identifier, "logps", tensors["logps"], tensors.get("completion_mask"))

    def clamped(self, log_ratios: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Logarithms of ratios within ± `log_ratio_clamp`."""
        return log_ratios.clamp(-self.log_ratio_clamp, self.log_ratio_clamp)

    def of_completions(self, given: PolicyTokens) -> Float[Tensor, " batch"]:
        """The advantages of whole completions.

        Raises:
            ValueError: they came for each token.
        """
        if given.completion_advantages is None:
            raise ValueError(
                f"{self._identifier}: advantages of shape {list(given.advantages.shape)} came; give one of each "
                f"completion, {list(given.advantages.shape[:1])}, since it has a ratio for each completion."
            )
        return given.completion_advantages

    @torch.no_grad()
    def metrics(
        self,
        logps: Float[Tensor, "batch tokens"],
        advantages: Float[Tensor, "batch"] | Float[Tensor, "batch tokens"],
        old_logps: Float[Tensor, "batch tokens"] | None = None,
        completion_mask: Shaped[Tensor, "batch tokens"] | None = None,
        ref_logps: Float[Tensor, "batch tokens"] | None = None,
        entropies: Float[Tensor, "batch tokens"] | None = None,
        sampling_ratio: Float[Tensor, "batch tokens"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """What is worth watching in a step, without gradient, each a mean over what counts in the batch.

        Returns:
            "approximate_kl": of ``log p_old - log p``, the KL from the policy that sampled; TRL's PPO has half the mean
            square instead, padding included. "kl": of the KL to the reference, where that is given. "entropy", where
            entropies are given. Of a loss that clips, also "clip_low" (the share with a ratio below the range and a
            negative advantage), "clip_high" (above it, with a positive one) and "clip_region", their sum: shares of the
            tokens, or of the completions where the ratio is a completion's.
        """
        given = self.given(logps, advantages, old_logps, completion_mask, ref_logps, entropies, sampling_ratio)
        watched = {"approximate_kl": -given.log_ratios}
        if given.ref_logps is not None:
            watched["kl"] = self.kl_terms(given)
        if given.entropies is not None:
            watched["entropy"] = given.entropies
        return {key: mean_where(value, given.kept) for key, value in watched.items()} | self.clip_fractions(given)

    def clip_fractions(self, given: PolicyTokens) -> dict[str, Float[Tensor, ""]]:
        """The shares that are clipped; none of a loss that doesn't clip."""
        return {}


def mean_where(values: Float[Tensor, "..."], kept: Bool[Tensor, "..."]) -> Float[Tensor, ""]:
    """The mean over what counts; 0 without any.

    Example:
        >>> mean_where(torch.tensor([1.0, 3.0, torch.nan]), torch.tensor([True, True, False]))
        tensor(2.)
    """
    return values.masked_fill(~kept, 0.0).sum() / kept.sum().clamp(min=1)
