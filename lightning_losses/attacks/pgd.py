"""Projected gradient descent: the attack that others are measured by."""

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from lightning_losses.attacks.balls import uniform_in_ball
from lightning_losses.attacks.gradient_attack import Climbing, GradientAttack
from lightning_losses.attacks.losses import ATTACK_LOSSES, AttackLossName
from lightning_losses.numerics.row_generator import Randomness, normal
from lightning_losses.numerics.settings import NonNegative

# The standard deviation of the normal start, with which TRADES and MART begin.
_NORMAL = 1e-3
Start = Literal["uniform", "normal", "none"]


class PGD(GradientAttack):
    """PGD: steps uphill along signs or unit gradients of a loss, each projected back onto the ball and the box.

    ``x <- box(ball(x + step_size sign(∇L(x))))``, and ``∇L / ||∇L||_2`` in place of the sign for the norm "l2".

    Args:
        step_size: the length of a step, at least 0.
        loss: what is climbed. "cross_entropy"; "probability_margin", ``max_{j != y} p_j - p_y``; "logit_margin", the
            same of logits; "dlr", the margin over ``z_(1) - z_(3)``, for at least 3 classes; "kl_divergence" from the
            probabilities of the unattacked input, and "margin_vector_norm", the distance of all margins from those
            there: both need a random start, since they are flat at the input.
        random_start: "uniform" in the ball; "normal", x + 0.001 N(0, 1), as TRADES and MART begin; or "none".
        schedule: "constant", or "cosine": the k-th of K steps is ``step_size (1 + cos(π k / K)) / 2``, from k = 0 on.
        epsilon, norm, steps, restarts, stop_when_fooled: see `GradientAttack`.
        bounds, mean, std, batch_norm, ignore_index, seed: see `Attack`.

    Shapes:
        inputs: [rows, ...]; target: [rows]; returns attacked inputs like `inputs`.

    Raises:
        ValueError: a setting outside its range; a loss without gradient at the start; see also `Attack`.

    Source:
        Madry, Makelov, Schmidt, Tsipras, Vladu, 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
        arXiv:1706.06083. A uniform start for "l2" is uniform by volume; torchattacks' is denser at the centre.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False)
        >>> network.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> attack = PGD(epsilon=0.25, step_size=0.125, steps=2, random_start="none")
        >>> attack(network, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.2500, 0.7500]])
    """

    name = "pgd"

    step_size: NonNegative = 2 / 255
    loss: AttackLossName = "cross_entropy"
    random_start: Start = "uniform"
    schedule: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compares() and self.random_start == "none":
            raise ValueError(
                f"{self.name}: loss={self.loss!r} came with random_start='none', where it has no gradient; give "
                "random_start='uniform' or 'normal'."
            )

    def losses(
        self, logits: Float[Tensor, "rows classes"], climbing: Climbing, step: int, restart: int
    ) -> Float[Tensor, " rows"]:
        """The loss, in every step the same."""
        loss = ATTACK_LOSSES[self.loss]
        if logits.shape[1] < loss.least_classes:
            raise ValueError(
                f"{self.name}: loss={self.loss!r} came with {logits.shape[1]} classes; it needs at least "
                f"{loss.least_classes}, so give loss='logit_margin'."
            )
        return loss.rows(logits, climbing.target, climbing.clean_logits.double())

    def compares(self) -> bool:
        """Whether the loss is a distance from the unattacked logits."""
        return ATTACK_LOSSES[self.loss].compares

    def step_length(self, step: int) -> float:
        """The same for all steps, or falling."""
        fall = (1 + math.cos(math.pi * step / self.steps)) / 2 if self.schedule == "cosine" else 1.0
        return self.step_size * fall

    def start(self, clean: Float[Tensor, "rows ..."], generator: Randomness) -> Float[Tensor, "rows ..."]:
        """Random points near the inputs, or these."""
        if self.random_start == "none":
            return clean
        if self.random_start == "uniform":
            return clean + uniform_in_ball(clean, self.epsilon, self.norm, generator)
        return clean + _NORMAL * normal(clean, generator)
