"""f-DPG: a policy approaches a target that is known up to a factor, by an f-divergence on sampled completions."""

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.losses.alignment.samples import count_completions, named_completions
from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision, softplus
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.settings import Whole
from lightning_losses.numerics.token_sequences import token_sum

Divergence = Literal["forward_kl", "reverse_kl", "js", "total_variation", "chi_square", "reverse_chi_square"]
# Products of two exponentials of this are finite in float32, also times a log-probability.
_LARGEST = 35.0
# What log t counts as, in either direction, where the target excludes a completion.
_FARTHEST = 1e4


def _exp(exponent: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return exponent.clamp(max=_LARGEST).exp()


# f' of log t.
_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "forward_kl": lambda log_t: -_exp(-log_t),
    "reverse_kl": lambda log_t: log_t + 1,
    "js": lambda log_t: math.log(2) - softplus(-log_t),
    "total_variation": lambda log_t: log_t.sign() / 2,
    "chi_square": lambda log_t: 1 - _exp(-2 * log_t),
    "reverse_chi_square": lambda log_t: 2 * (_exp(log_t) - 1),
}


class _Sampled(NamedTuple):
    """Log-probabilities of completions by the policy and the proposal, the target's scores, and which count."""

    log_p: Float[Tensor, " batch"]
    log_q: Float[Tensor, " batch"]
    log_target: Float[Tensor, " batch"]
    kept: Bool[Tensor, " batch"]


class FDPG(Loss):
    """f-DPG: a policy approaches a target that is known up to a factor, by an f-divergence on sampled completions.

    ``(p_θ/q) (f'(t) + b) log p_θ`` with ``t = Z p_θ / P``: everything but ``log p_θ`` is constant, so that its
    gradient estimates that of the f-divergence of p_θ and the target ``P / Z``; its value means nothing. Completions
    are of the proposal q, mostly p_θ itself. Targets: ``p_ref exp(λ φ)`` for constraints on features φ, and
    ``p_ref exp(r / β)`` for a reward r, where "reverse_kl" is reinforcement with a KL penalty.

    `after_step` keeps Z, the mean of P/q over all completions so far, and the mean of -f'(t) over the last `window` of
    them, which is b. In a first step Z is 1 and b is 0; where P is of another size, give `after_step` a batch before
    training. Exponents are held below 35, and log t within ±10^4: a completion that the target excludes (P = 0) has a
    finite gradient.

    Args:
        divergence: "forward_kl" is KL(P/Z || p_θ), "reverse_kl" KL(p_θ || P/Z); likewise the two χ².
        window: how many completions the baseline remembers; 0 for b = 0.
        reduction: "mean" over completions, "sum", or "none".

    Shapes:
        logps, old_logps (optional, of q; p_θ's own without), completion_mask (optional): [B, T]; target_log_scores:
        [B], log P. Completions without a token that counts are left out.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Go, Korbak, Kruszewski, Rozen, Ryu, Dymetman, 2023, "Aligning Language Models with Preferences through
        f-divergence Minimization", arXiv:2302.08215, and their code, naver/disco, which counts a batch into Z before
        its loss; here it counts from the next one on, so that no process waits for another.

    Example:
        >>> logps = torch.tensor([[-1.0], [-2.0]], requires_grad=True)
        >>> loss = FDPG("reverse_kl")
        >>> loss(logps, target_log_scores=logps.detach().squeeze(1)).backward()  # at the target: f'(1) = 1
        >>> logps.grad.flatten()
        tensor([0.5000, 0.5000])
    """

    status = "confirmed"
    evidence = "naver/disco"

    divergence: Divergence = "forward_kl"
    window: Whole = 1024
    reduction: Reduction = field(default="mean", kw_only=True)
    log_sum: Tensor = field(init=False)
    seen: Tensor = field(init=False)
    recent: Tensor = field(init=False)
    counted: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.register_buffer("log_sum", torch.full((), -math.inf, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("recent", torch.zeros(self.window))
        self.register_buffer("counted", torch.zeros(self.window, dtype=torch.bool))

    @property
    def log_z(self) -> Float[Tensor, ""]:
        """log Z; 0 before a completion within the target was seen."""
        return torch.where(torch.isneginf(self.log_sum), 0.0, self.log_sum - self.seen.clamp(min=1).double().log())

    @property
    def baseline(self) -> Float[Tensor, ""]:
        """b: the mean of the last -f'(t); 0 before the first step."""
        return self.recent.sum() / self.counted.sum().clamp(min=1)

    def forward(
        self,
        logps: Float[Tensor, "batch tokens"],
        target_log_scores: Float[Tensor, " batch"],
        old_logps: Float[Tensor, "batch tokens"] | None = None,
        completion_mask: Shaped[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        given = self._given(logps, target_log_scores, old_logps, completion_mask)
        with torch.autocast(logps.device.type, enabled=False):
            ratio = _exp(given.log_p.detach() - given.log_q)
            advantage = ratio * (self._slope(given) + self.baseline.to(given.log_p))
            return reduce(advantage * given.log_p, self.reduction, given.kept)

    @torch.no_grad()
    def after_step(self, **tensors: Any) -> None:
        """Count a batch into Z and the baseline."""
        names = ("logps", "target_log_scores", "old_logps", "completion_mask")
        given = self._given(**{name: tensors[name] for name in names if name in tensors})
        slopes = (-self._slope(given)).to(self.recent).masked_fill(~given.kept, 0.0)
        weights = (given.log_target - given.log_q).double().masked_fill(~given.kept, -math.inf)
        total = torch.logsumexp(weights, dim=0)
        # What is not finite, as in a step that `NumericsGuard` leaves out, would spoil every later one.
        sound = (total < math.inf) & slopes.isfinite().all()
        self.recent = torch.cat([self.recent, torch.where(sound, slopes, 0.0)])[len(slopes) :]
        self.counted = torch.cat([self.counted, given.kept & sound])[len(slopes) :]
        self.log_sum = torch.where(sound, torch.logaddexp(self.log_sum, total.to(self.log_sum)), self.log_sum)
        self.seen = self.seen + torch.where(sound, given.kept.sum(), 0)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The number of completions with a token that counts."""
        return count_completions(self._identifier, "logps", tensors["logps"], tensors.get("completion_mask"))

    def _given(
        self,
        logps: Float[Tensor, "batch tokens"],
        target_log_scores: Float[Tensor, " batch"],
        old_logps: Float[Tensor, "batch tokens"] | None = None,
        completion_mask: Shaped[Tensor, "batch tokens"] | None = None,
    ) -> _Sampled:
        proposal = None if old_logps is None else ("old_logps", old_logps)
        given = named_completions(self._identifier, ("logps", logps), ("completion_mask", completion_mask), proposal)
        check_floating(self._identifier, "target_log_scores", target_log_scores)
        if target_log_scores.shape != given.logps.shape[:1]:
            raise ValueError(
                f"{self._identifier}: target_log_scores of shape {list(target_log_scores.shape)} came with "
                f"{len(given.logps)} completions; give log P of each, [B]."
            )
        log_p = token_sum(given.logps, given.kept)
        log_q = log_p.detach() if given.reference is None else token_sum(given.reference, given.kept)
        return _Sampled(log_p, log_q, full_precision(target_log_scores.detach()), given.lengths > 0)

    def _slope(self, given: _Sampled) -> Float[Tensor, " batch"]:
        """``f'(t)``."""
        log_t = (given.log_p.detach() - given.log_target + self.log_z.to(given.log_p)).clamp(-_FARTHEST, _FARTHEST)
        return _SLOPES[self.divergence](log_t)
