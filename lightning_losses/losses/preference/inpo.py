"""INPO: preferences among a policy's own completions, which lead it to the Nash policy of the preference."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import PreferenceLoss, PreferencePairs
from lightning_losses.numerics.checks import check_floating, check_number
from lightning_losses.numerics.probabilities import finite_logarithms, full_precision
from lightning_losses.numerics.settings import Positive


class INPO(PreferenceLoss):
    """Iterative Nash policy optimization: the policy plays against itself, and nears the Nash policy of a preference.

    ``(h - 1/(2η))^2`` with ``h = log(p_w/p_l) - (τ/η) log(ref_w/ref_l) - (1 - τ/η) log(old_w/old_l)``, of sums over
    tokens: IPO whose reference lies between the reference policy and the previous iterate, geometrically. In each
    iteration the previous policy samples pairs, an oracle says which is preferred, and the minimum is the policy
    proportional to ``exp(P(y > old)/η) ref^(τ/η) old^(1 - τ/η)``. The oracle's preference may be cyclic; no reward has
    to explain it. The first iteration starts from the reference; with τ = η it is IPO.

    Args:
        tau: τ, above 0 and at most η: how strongly the Nash policy is held to the reference.
        eta: η, above 0: how small the steps are.

    Shapes:
        chosen_logps, ref_chosen_logps, old_chosen_logps, chosen_mask (optional): [B, T]; rejected_logps,
        ref_rejected_logps, old_rejected_logps, rejected_mask (optional): [B, S].

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; τ above η.

    Source:
        Zhang et al., 2024, "Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret
        Learning", arXiv:2407.00617, section 3 and algorithm 1.

    Example:
        >>> same = torch.tensor([[-1.0]])
        >>> INPO(eta=1.0)(same, same, same, same, same, same)  # 1 / (2 η), squared
        tensor(0.2500)
    """

    status = "paper"
    evidence = "values and gradients that were evaluated from the formula; no code of the authors was seen"

    tau: Positive = 0.1
    eta: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self._identifier, "tau", self.tau, above=0, most=self.eta)

    def forward(
        self,
        chosen_logps: Float[Tensor, "pairs tokens"],
        rejected_logps: Float[Tensor, "pairs others"],
        ref_chosen_logps: Float[Tensor, "pairs tokens"],
        ref_rejected_logps: Float[Tensor, "pairs others"],
        old_chosen_logps: Float[Tensor, "pairs tokens"],
        old_rejected_logps: Float[Tensor, "pairs others"],
        chosen_mask: Shaped[Tensor, "pairs tokens"] | None = None,
        rejected_mask: Shaped[Tensor, "pairs others"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        chosen = self._between("chosen_logps", ref_chosen_logps, old_chosen_logps)
        rejected = self._between("rejected_logps", ref_rejected_logps, old_rejected_logps)
        return self.reduced(self.given(chosen_logps, rejected_logps, chosen_mask, rejected_mask, chosen, rejected))

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        return (given.margins - 1 / (2 * self.eta)).square()

    def _between(
        self, name: str, reference: Float[Tensor, "pairs tokens"], old: Float[Tensor, "pairs tokens"]
    ) -> Float[Tensor, "pairs tokens"]:
        for who, logps in (("ref", reference), ("old", old)):
            check_floating(self._identifier, f"{who}_{name}", logps)
        if reference.shape != old.shape:
            raise ValueError(
                f"{self._identifier}: ref_{name} of shape {list(reference.shape)} came with old_{name} of shape "
                f"{list(old.shape)}; give both of the same tokens."
            )
        near, far = (finite_logarithms(full_precision(logps.detach())) for logps in (old, reference))
        return torch.lerp(near, far.to(near), self.tau / self.eta)
