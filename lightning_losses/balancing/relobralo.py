"""ReLoBRaLo: weights follow each loss's change since the last step and since the first."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import Balancing, Step
from lightning_losses.numerics.settings import Share, Temperature


class ReLoBRaLo(Balancing):
    """Relative loss balancing with random look-back: weights from this step's losses, the last ones and the first ones.

    ``bal(a, b) = T softmax(a / (temperature b))``, and ρ drawn in each step, 1 with probability `look_back`, else 0:
    ``w(t) = α (ρ w(t-1) + (1 - ρ) bal(L(t), L(0))) + (1 - α) bal(L(t), L(t-1))``. α is 1 in the first step, where the
    weights are 1, and 0 in the second. Losses must not be negative. If a step has several batches, its losses are known
    only after the last one; until then the terms' gradients are kept separate.

    Args:
        alpha: the inertia of the weights.
        look_back: the probability of using the last weights instead of those relative to the first losses.
        temperature: the larger, the more equal the weights are.
        seed: seed of the draws, which are the same on all processes and in a resumed run.

    Source:
        Bischof, Kraus, 2021, "Multi-Objective Loss Balancing for Physics-Informed Deep Learning", arXiv:2110.09813;
        settings as in rbischof/relative_balancing, whose L(0) is a step later. Confirmed against this code.

    Example:
        >>> policy = ReLoBRaLo(alpha=0.9)
        >>> policy.begin(terms=2)
        >>> policy.weights(torch.tensor([1.0, 3.0])).tolist()
        [1.0, 1.0]
    """

    reads = "losses"

    alpha: Share = 0.999
    look_back: Share = 1.0
    temperature: Temperature = 1.0
    seed: int = 0

    def begin(self, terms: int) -> None:
        """Create the last weights, the first and the last losses, and the number of steps done."""
        super().begin(terms)
        self.state("last_weights", 1.0)
        self.state("first", float("nan"))
        self.state("last", float("nan"))
        self.count_steps()

    def keeps(self) -> bool:
        """Whether the step's draw keeps the last weights."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps_done)
        return bool(torch.rand((), generator=generator) < self.look_back)

    def weights(self, losses: Float[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """The step's."""
        last = self.get_buffer("last_weights")
        steps = self.steps_done
        if steps == 0:
            return last.clone()
        alpha = self.alpha if steps > 1 else 0.0
        history = last if self.keeps() else self._relative(losses, self.get_buffer("first"))
        return alpha * history + (1 - alpha) * self._relative(losses, self.get_buffer("last"))

    def update(self, step: Step) -> None:
        """Store the step's losses and weights."""
        self.get_buffer("last_weights").copy_(self.weights(step.losses))
        counted = step.losses.isfinite()
        first, last = self.get_buffer("first"), self.get_buffer("last")
        last.copy_(torch.where(counted, step.losses, last))
        first.copy_(torch.where(counted & first.isnan(), step.losses, first))
        self.count_step()

    def _relative(self, losses: Tensor, before: Tensor) -> Tensor:
        ratio = losses.to(before) / (self.temperature * before + 1e-12)
        # A term that is absent now, or was absent so far, counts as unchanged.
        ratio = torch.where(ratio.isfinite(), ratio, 1 / self.temperature)
        return self.terms * ratio.softmax(dim=0)
