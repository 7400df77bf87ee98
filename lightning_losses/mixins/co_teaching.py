"""The mixin in which two networks pick each other's samples: those with a small loss, whose labels are likely right."""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.mixins.online_distillation import OnlineDistillationMixin
from lightning_losses.numerics.checks import check_choice, check_number
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.rows import labelled_rows
from lightning_losses.objective import Objective
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.processes import gather_batch, group_rank, sizes_of_all

Schedule = Literal["paper", "code"]


def forgotten_share(
    epoch: int, forget_rate: float, gradual_epochs: int = 10, exponent: float = 1.0, schedule: Schedule = "paper"
) -> float:
    """The share of a batch's samples that co-teaching leaves out in an epoch, counted from 0.

    "paper" is ``R min((t / T)^c, 1)`` with the rate R, T gradual epochs and the exponent c. "code" goes from 0 to R^c
    in equal steps over the first T epochs, and is R from then on: with c other than 1 it jumps there.

    Example:
        >>> [forgotten_share(epoch, 0.2, 4) for epoch in (0, 2, 4, 9)]
        [0.0, 0.1, 0.2, 0.2]
        >>> [round(forgotten_share(epoch, 0.2, 4, schedule="code"), 4) for epoch in (0, 2, 4, 9)]
        [0.0, 0.1333, 0.2, 0.2]
    """
    if epoch >= gradual_epochs:
        return forget_rate
    if schedule == "paper":
        return forget_rate * (epoch / gradual_epochs) ** exponent
    return forget_rate**exponent * epoch / max(gradual_epochs - 1, 1)


def small_losses(
    losses: Float[Tensor, " rows"], share: float, kept: Bool[Tensor, " rows"] | None = None
) -> Bool[Tensor, " rows"]:
    """Which rows are left when the share with the largest losses is left out; at least one.

    Of n kept rows ``floor((1 - share) n)`` are left, with 1e-9 against rounding. Of equal losses the first are left;
    one that is not a number is the largest.

    Args:
        losses: one for each row.
        share: in [0, 1].
        kept: rows that count; all if None.

    Example:
        >>> small_losses(torch.tensor([3.0, 1.0, 1.0, 2.0]), 0.5)
        tensor([False,  True,  True, False])
    """
    kept = torch.ones_like(losses, dtype=torch.bool) if kept is None else kept
    order = losses.detach().masked_fill(~kept, torch.nan).argsort(stable=True)
    # Ignored rows stand behind those that are not a number by their own loss.
    order = order[(~kept[order]).to(torch.uint8).argsort(stable=True)]
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    wide = torch.float32 if losses.device.type == "mps" else torch.float64
    left = (kept.sum().to(wide) * (1 - share) + 1e-9).floor().clamp(min=1)
    return (rank < left) & kept


class CoTeachingMixin(OnlineDistillationMixin):
    """Trains two networks on noisy labels, each on the samples of the batch that have a small loss in the other.

    Set `self.peer` to a network like the student but with other weights, `self.objective` and `self.peer_objective`,
    and call `start_co_teaching`. Each network orders the batch by its cross-entropy and picks the small ones, a share
    that falls from all to ``1 - forget_rate``; the other network's objective then ignores the rest. Networks err
    differently, so that a wrong label that one picks has a large loss in the other. The pick is of the batch of all
    processes, as far as `gather_batches` joins them, and of each batch that is accumulated. Outside of training
    nothing is left out.

    One backward pass of the sum gives each network the gradient of its own loss alone: the mean over the picked
    samples. The authors' code divides by their number once more.

    Attributes:
        forget_rate: R, the share of samples that is left out in the end: the share of wrong labels, as far as it is
            known; in [0, 1].
        gradual_epochs: T, the epochs over which the share grows.
        exponent: c, of its growth.
        forget_schedule: "paper" or "code"; see `forgotten_share`.

    Source:
        Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama, 2018, "Co-teaching: Robust Training of Deep Neural Networks with
        Extremely Noisy Labels", arXiv:1804.06872, and their code, bhanML/Co-teaching.

    Example:
        >>> import lightning
        >>> from torch import nn
        >>> from lightning_losses import CrossEntropy
        >>> class Pair(CoTeachingMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network, self.peer = nn.Linear(4, 3), nn.Linear(4, 3)
        ...         self.objective = Objective({"ce": CrossEntropy()})
        ...         self.peer_objective = Objective({"ce": CrossEntropy()})
        ...         self.start_co_teaching(forget_rate=0.5, gradual_epochs=10)
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, target = batch
        ...         return self.apply_objective(inputs=inputs, logits=self.network(inputs), target=target)
        >>> step = Pair().training_step((torch.zeros(2, 4), torch.tensor([0, 1])), 0)
        >>> step["loss"].shape, step["peer_logits"].shape
        (torch.Size([]), torch.Size([2, 3]))
    """

    forget_rate: float
    gradual_epochs: int = 10
    exponent: float = 1.0
    forget_schedule: Schedule = "paper"

    def start_co_teaching(
        self, forget_rate: float, gradual_epochs: int = 10, exponent: float = 1.0, schedule: Schedule = "paper"
    ) -> None:
        """Set what is left out, and when.

        Raises:
            ValueError: settings out of range.
        """
        check_number("co_teaching", "forget_rate", forget_rate, least=0, most=1)
        check_number("co_teaching", "gradual_epochs", gradual_epochs, least=1)
        check_number("co_teaching", "exponent", exponent, above=0)
        check_choice("co_teaching", "schedule", schedule, Schedule)
        self.forget_rate, self.gradual_epochs = forget_rate, gradual_epochs
        self.exponent, self.forget_schedule = exponent, schedule

    def apply_objective(self, **tensors: Any) -> dict[str, Any]:
        """Evaluate each network's objective on the samples that the other picks, and add them."""
        if not hasattr(self, "forget_rate"):
            raise ValueError(f"{type(self).__name__}: call start_co_teaching in the constructor.")
        others = self.peer_logits(tensors)
        if len(others) != 1:
            raise ValueError(
                f"{type(self).__name__}: {len(others) + 1} networks came, and two pick each other's samples; set "
                "self.peer alone."
            )
        if "target" not in tensors:
            raise ValueError(
                f"{type(self).__name__}: co-teaching picks samples by the cross-entropy with their 'target'; the step "
                f"offered {', '.join(map(repr, sorted(tensors)))}."
            )
        logits, (peer_logits,) = tensors["logits"], others
        offered = self.offered_to_all(tensors)
        share = 0.0 if self.evaluates else self._share(offered)
        # Labels that are made of the target are those of what is picked.
        shared = {name: tensor for name, tensor in offered.items() if name != "multi_hot" or name in tensors}
        losses, given = [], []
        for objective, own, other, name in (
            (self.objective, logits, peer_logits, None),
            (self.peer_objective, peer_logits, logits, "peer_loss"),
        ):
            target = self._picked(objective, other, tensors["target"], share)
            given.append(self._with_multi_hot({**shared, "logits": own, "target": target}))
            losses.append(self.evaluate_objective(objective, self.log_name(name), given[-1]))
        output = {"loss": losses[0] + losses[1], **tensors, "peer_logits": peer_logits}
        self.on_objective(output, given[0])
        return output

    def _share(self, offered: dict[str, Any]) -> float:
        epoch = int(offered.get("epoch", 0))
        return forgotten_share(epoch, self.forget_rate, self.gradual_epochs, self.exponent, self.forget_schedule)

    @torch.no_grad()
    def _picked(
        self,
        objective: Objective,
        logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
        share: float,
    ) -> Shaped[Tensor, "..."]:
        """The target, ignored where these logits have one of the larger losses."""
        if not objective.needs("target"):
            raise ValueError(
                f"{type(self).__name__}: a network's objective takes no 'target', by which what the other one does not "
                "pick is left out; give it a term of labels."
            )
        ignored = ignored_targets(objective)
        if len(ignored) > 1 and not target.is_floating_point():
            raise ValueError(
                f"{type(self).__name__}: the terms ignore different targets, {', '.join(map(str, ignored))}; give "
                "all the same ignore_index, by which what is not picked is left out."
            )
        kept = labelled_rows(target, *ignored)
        label = target if target.is_floating_point() else target.masked_fill(~kept, 0)
        losses = cross_entropy(log_probabilities(full_precision(logits)), label).reshape(-1)
        picked = self._of_all(losses, share, kept.reshape(-1)).reshape(kept.shape)
        if target.is_floating_point():
            return target * picked.unsqueeze(-1)
        return target.masked_fill(~picked, ignored[0])

    def _of_all(
        self, losses: Float[Tensor, " rows"], share: float, kept: Bool[Tensor, " rows"]
    ) -> Bool[Tensor, " rows"]:
        """This process's part of the pick of all processes."""
        group = self.gathered_from()
        if group is False or self.evaluates:
            return small_losses(losses, share, kept)
        sizes, rank = sizes_of_all(len(losses), losses.device, group), group_rank(group)
        begin = sum(sizes[:rank])
        picked = small_losses(gather_batch(losses, group), share, gather_batch(kept, group))
        return picked[begin : begin + len(losses)]
