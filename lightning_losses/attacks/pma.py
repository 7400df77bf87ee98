"""The probability margin attack: a schedule of losses and of step sizes that ends in the margin of probabilities."""

import math
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from lightning_losses.attacks.balls import uniform_in_ball
from lightning_losses.attacks.gradient_attack import Climbing, GradientAttack
from lightning_losses.attacks.losses import log_probability_margin, log_rival_probability, odds_against
from lightning_losses.numerics.row_generator import Randomness
from lightning_losses.numerics.settings import Bound, Count


class PMA(GradientAttack):
    """PMA: each start goes one way first, then all climb the margin ``max_{j != y} p_j - p_y``, with falling steps.

    With K steps, the k-th of which begins at 0, start r maximises::

        k = 0          p_y, which leads away from where all starts would go
        0 < k < K / 2  -p_y for even r, max_{j != y} p_j for odd r
        K / 2 <= k     max_{j != y} p_j - p_y

    A step is ``ε (1 + cos(π (k - 1) / (K / 2)))`` long up to k = K / 2, and then ``ε (1 + cos(π (k - 1 - K / 2) /
    (K / 2)))``: it falls from 2 ε towards 0 twice. Each start is uniform in the ball.

    Args:
        steps: K, at least 2.
        restarts: starts; two go both ways.
        epsilon, norm, stop_when_fooled: see `GradientAttack`; the last is on.
        bounds, mean, std, batch_norm, ignore_index, seed: see `Attack`.

    Shapes:
        inputs: [rows, ...]; target: [rows]; returns attacked inputs like `inputs`.

    Raises:
        ValueError: a setting outside its range; see also `Attack`.

    Source:
        Xie, Zheng, Huang, Ye, Ma, 2024, "Towards Million-Scale Adversarial Robustness Evaluation With Stronger
        Individual Attacks", arXiv:2411.15210, and OpenTAI/taiadv. Starts are clipped to the bounds, which theirs
        overlook; of rows that nothing fools, the end of the largest margin is kept, not the last; and a single row
        that is left begins again too.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False)
        >>> network.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> attacked = PMA(epsilon=0.25, steps=10)(network, torch.tensor([[0.9, 0.5]]), torch.tensor([0]))
        >>> bool(attacked[0, 1] > attacked[0, 0])
        True
    """

    name = "pma"

    steps: Annotated[int, Bound(least=2)] = 50
    restarts: Count = 2
    stop_when_fooled: bool = True

    def losses(
        self, logits: Float[Tensor, "rows classes"], climbing: Climbing, step: int, restart: int
    ) -> Float[Tensor, " rows"]:
        """What this step climbs."""
        given = (logits, climbing.target, climbing.clean_logits)
        if step == 0:
            return -odds_against(*given)
        if step < self.steps / 2:
            return log_rival_probability(*given) if restart % 2 else odds_against(*given)
        return log_probability_margin(*given)

    def step_length(self, step: int) -> float:
        """From 2 ε towards 0, twice."""
        half = self.steps / 2
        since = step - 1 - (half if step > half else 0)
        return self.epsilon * (1 + math.cos(math.pi * since / half))

    def start(self, clean: Float[Tensor, "rows ..."], generator: Randomness) -> Float[Tensor, "rows ..."]:
        """Points that are uniform in the ball."""
        return clean + uniform_in_ball(clean, self.epsilon, self.norm, generator)
