"""Group DRO: the group with the largest loss gets the largest weight, which grows from step to step."""

from dataclasses import field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.kinds import index_rows
from lightning_losses.numerics.domains import check_domains, domain_means, domain_members
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import Count, NonNegative


class GroupDRO(Loss):
    """Group DRO: the group with the largest loss gets the largest weight, which grows from step to step.

    ``sum_g q_g ℓ_g`` with ℓ_g the group's mean cross-entropy and, in every training step before that,
    ``q_g ← q_g exp(η ℓ_g)``, scaled to a sum of 1; q has no gradient. A group without a sample in the batch has ℓ = 0
    there. log q is a buffer, in checkpoints, and begins with equal weights; evaluation, and a call without gradients,
    leave it as it is. Use batches with equally many samples of all groups and a strong weight decay, as the authors do.

    If `step` is given, as by `ObjectiveMixin`, all batches of one step begin with the weights of the step before, and
    the weights of its last batch are kept: they move once in a step, also where batches are accumulated or a batch
    passes again. Without it every call in training is a step.

    Args:
        num_groups: at least 1.
        eta: η, at least 0; 0 is the mean of the groups' losses.
        ignore_index: rows with this target are ignored.

    Attributes:
        log_weights: [num_groups] log q after the last batch.

    Shapes:
        logits: [..., C]; target: [...] class indices; domain: [...] int64, the group of each row; step: a scalar.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a group out of range, on a CPU and
            under `debug`.

    Source:
        Sagawa, Koh, Hashimoto, Liang, 2019, "Distributionally Robust Neural Networks for Group Shifts: On the
        Importance of Regularization for Worst-Case Generalization", arXiv:1911.08731, and its code,
        kohpangwei/group_DRO, without its adjustment by the groups' sizes.

    Example:
        >>> loss = GroupDRO(num_groups=2, eta=1.0)
        >>> logits, target = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0])
        >>> value = loss(logits, target, domain=torch.tensor([0, 1]))
        >>> round(value.item(), 3), [round(weight, 3) for weight in loss.log_weights.exp().tolist()]
        (8.999, [0.0, 1.0])
    """

    batch_coupled = True
    status = "confirmed"
    evidence = "kohpangwei/group_DRO, and facebookresearch/DomainBed"

    num_groups: Count
    eta: NonNegative = 0.01
    ignore_index: int = field(default=-100, kw_only=True)
    log_weights: Tensor = field(init=False)
    begun_from: Tensor = field(init=False)
    at_step: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        even = torch.full((self.num_groups,), 1.0 / self.num_groups).log()
        self.register_buffer("log_weights", even.clone())
        # The weights that the batches of one step begin from, and which step that is.
        self.register_buffer("begun_from", even.clone())
        self.register_buffer("at_step", torch.tensor(-1, dtype=torch.int64))

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Int[Tensor, "*rows"],
        domain: Int[Tensor, "*rows"],
        step: float | None = None,
    ) -> Float[Tensor, ""]:
        """Check and evaluate, and in training move the weights; see the class."""
        rows = index_rows(self._identifier, logits, target, self.ignore_index)
        check_domains(self._identifier, domain, rows.target, self.num_groups, setting="num_groups", name="target")
        values = -pick(log_probabilities(rows.logits), rows.target).flatten()
        kept = None if rows.kept is None else rows.kept.flatten()
        losses = domain_means(values, domain_members(domain.flatten(), self.num_groups, kept, values))
        moves = self.training and torch.is_grad_enabled()
        log_weights = self._moved(losses.detach(), step) if moves else self.log_weights
        return (log_weights.exp().to(losses) * losses).sum()

    @torch.no_grad()
    def _moved(self, losses: Float[Tensor, " groups"], step: float | None) -> Float[Tensor, " groups"]:
        # Filled in on the device; a tensor made of a number is copied there, and waited for.
        at_step = self.at_step + 1 if step is None else torch.full_like(self.at_step, int(step))
        start = torch.where(at_step != self.at_step, self.log_weights, self.begun_from)
        moved = torch.log_softmax(start + self.eta * losses.to(start), dim=0)
        # What is not finite, as in a step that `NumericsGuard` leaves out, would spoil every later one.
        sound = losses.isfinite().all()
        self.begun_from.copy_(start)
        self.log_weights.copy_(torch.where(sound, moved, start))
        self.at_step.copy_(at_step)
        return moved
