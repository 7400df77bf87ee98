"""Bradley-Terry: a reward model scores the chosen of two completions above the rejected."""

from dataclasses import field

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating, debugging
from lightning_losses.numerics.probabilities import full_precision, known_somewhere, softplus
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.settings import Weight


class BradleyTerry(Loss):
    """The Bradley-Terry model's likelihood: a reward model scores the chosen of two completions above the rejected.

    ``-log σ(r_w - r_l - m) + c (r_w + r_l)^2``. The first part knows differences alone; the second keeps rewards
    around 0, so that they can be compared between prompts. `reward_margin` m says by how much the chosen is better.

    Args:
        centring_weight: c, at least 0; TRL's center_rewards_coefficient, of which 0.01 is usual.
        reduction: "mean" over pairs, "sum", or "none".

    Shapes:
        chosen_rewards: [B]; rejected_rewards: [B]; reward_margin (optional): [B], constant.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; an infinite reward, on a CPU and under `debug`.

    Source:
        Bradley, Terry, 1952, "Rank Analysis of Incomplete Block Designs: I. The Method of Paired Comparisons"; as the
        loss of a reward model Ouyang et al., 2022, "Training language models to follow instructions with human
        feedback", arXiv:2203.02155; the margin is that of Touvron et al., 2023, arXiv:2307.09288, and the centring that
        of Eisenstein et al., 2023, arXiv:2312.09244.

    Example:
        >>> loss = BradleyTerry()
        >>> round(loss(torch.tensor([1.0]), torch.tensor([1.0])).item(), 4)  # log 2
        0.6931
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl and OpenRLHF/OpenRLHF, not the authors' code"

    centring_weight: Weight = 0.0
    reduction: Reduction = field(default="mean", kw_only=True)

    def forward(
        self,
        chosen_rewards: Float[Tensor, " batch"],
        rejected_rewards: Float[Tensor, " batch"],
        reward_margin: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        names = {"chosen_rewards": chosen_rewards, "rejected_rewards": rejected_rewards}
        names |= {} if reward_margin is None else {"reward_margin": reward_margin}
        for name, given in names.items():
            check_floating(self._identifier, name, given)
            if given.ndim != 1 or len(given) != len(chosen_rewards):
                raise ValueError(
                    f"{self._identifier}: {name} of shape {list(given.shape)} came; give a number for each pair, [B]."
                )
            infinite = torch.isinf(given.detach())
            if known_somewhere(infinite) or (debugging() and bool(infinite.any())):
                raise ValueError(f"{self._identifier}: {name} holds an infinite number; give finite ones.")
        chosen, rejected, *margin = (full_precision(given) for given in names.values())
        with torch.autocast(chosen.device.type, enabled=False):
            gap = chosen - rejected - margin[0].detach() if margin else chosen - rejected
            value = softplus(-gap)
            if self.centring_weight:
                value = value + self.centring_weight * (chosen + rejected).square()
            return reduce(value, self.reduction)
