"""The fast gradient sign method: one step to the surface of the ball."""

from dataclasses import field

from jaxtyping import Float
from torch import Tensor

from lightning_losses.attacks.gradient_attack import Climbing, GradientAttack
from lightning_losses.attacks.losses import odds_against
from lightning_losses.numerics.row_generator import Randomness


class FGSM(GradientAttack):
    """FGSM: one step of length ε uphill the cross-entropy; on a linear network of two classes the strongest attack.

    ``x' = box(x + ε sign(∇ CE(x)))``; for the norm "l2", ``x + ε ∇CE / ||∇CE||_2``.

    Args:
        epsilon, norm, stop_when_fooled: see `GradientAttack`; with the last, rows that are misclassified anyway stay.
        bounds, mean, std, batch_norm, ignore_index, seed: see `Attack`.

    Shapes:
        inputs: [rows, ...]; target: [rows]; returns attacked inputs like `inputs`.

    Raises:
        ValueError: a setting outside its range; see also `Attack`.

    Source:
        Goodfellow, Shlens, Szegedy, 2015, "Explaining and Harnessing Adversarial Examples", arXiv:1412.6572.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False)
        >>> network.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> FGSM(epsilon=0.25)(network, torch.tensor([[0.5, 0.875]]), torch.tensor([0]))
        tensor([[0.2500, 1.0000]])
    """

    name = "fgsm"

    steps: int = field(init=False, default=1)
    restarts: int = field(init=False, default=1)

    def losses(
        self, logits: Float[Tensor, "rows classes"], climbing: Climbing, step: int, restart: int
    ) -> Float[Tensor, " rows"]:
        """Cross-entropy, by the odds against the class."""
        return odds_against(logits, climbing.target, climbing.clean_logits)

    def step_length(self, step: int) -> float:
        """The whole radius."""
        return self.epsilon

    def start(self, clean: Float[Tensor, "rows ..."], generator: Randomness) -> Float[Tensor, "rows ..."]:
        """The inputs."""
        return clean
