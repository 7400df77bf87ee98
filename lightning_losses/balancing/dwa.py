"""Dynamic weight average: terms weigh more if their loss falls slowly."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.balancing.base import Balancing, Step
from lightning_losses.numerics.settings import Temperature

# A loss of 0 would make its ratio infinite.
_LEAST = 1e-12


class DWA(Balancing):
    """Dynamic weight average: ``w = T softmax(r / temperature)``, r the ratio of the last two epochs' losses.

    An epoch's loss is the plain mean over its optimizer steps. The weights are 1 in the first two epochs, and constant
    within an epoch. Losses must not be negative.

    Args:
        temperature: the larger, the more equal the weights are.

    Source:
        Liu, Johns, Davison, 2019, "End-to-End Multi-Task Learning with Attention", arXiv:1803.10704. Confirmed against
        TorchJD 0.18.0.

    Example:
        >>> policy = DWA()
        >>> policy.begin(terms=2)
        >>> for losses in ([1.0, 1.0], [0.5, 1.0]):
        ...     policy.update(Step(torch.tensor(losses)))
        ...     policy.end_epoch()
        >>> [round(weight, 3) for weight in policy.weights(torch.ones(2)).tolist()]
        [0.876, 1.124]
    """

    temperature: Temperature = 2.0

    def begin(self, terms: int) -> None:
        """Create the means of two epochs, and the sums of the current one."""
        super().begin(terms)
        for name in ("before_last", "last"):
            self.state(name, float("nan"))
        self.state("sums", 0.0)
        self.state("steps", 0.0)
        self.register_buffer("epoch", torch.full((), -1))

    def weights(self, losses: Float[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """The epoch's."""
        ratio = self.get_buffer("last") / self.get_buffer("before_last").clamp(min=_LEAST)
        # Before two epochs are finished, all ratios are equal.
        return self.terms * (torch.where(ratio.isfinite(), ratio, 1.0) / self.temperature).softmax(dim=0)

    def update(self, step: Step) -> None:
        """Add the step's losses."""
        counted = step.losses.isfinite()
        self.get_buffer("sums").add_(torch.where(counted, step.losses, 0.0))
        self.get_buffer("steps").add_(counted)

    def at_epoch(self, epoch: int) -> None:
        """End the previous epoch, if this is a new one; a loop of your own may call `end_epoch` itself."""
        number = self.get_buffer("epoch")
        # A mask, because a branch would wait for a GPU in every step.
        self._end_where((number >= 0) & (number != epoch))
        number.fill_(epoch)

    def end_epoch(self) -> None:
        """Compute the means; a term that was absent in the whole epoch keeps its old ones."""
        self._end_where(torch.ones_like(self.get_buffer("epoch"), dtype=torch.bool))

    def _end_where(self, ended: Bool[Tensor, ""]) -> None:
        sums, steps, last, before = (self.get_buffer(name) for name in ("sums", "steps", "last", "before_last"))
        seen = ended & (steps > 0)
        before.copy_(torch.where(seen, last, before))
        last.copy_(torch.where(seen, sums / steps.clamp(min=1), last))
        sums.masked_fill_(ended, 0.0)
        steps.masked_fill_(ended, 0.0)
