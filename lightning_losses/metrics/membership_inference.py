"""Membership inference: how well a score tells what a model was trained on from what it was not."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_losses.metrics.thresholds import counts_above
from lightning_losses.numerics.checks import check_floating, check_number, check_tensor
from lightning_losses.parallel.processes import rows_of_all


class MembershipAudit(NamedTuple):
    """How well scores tell members from others, in float64; NaN without one of either.

    Attributes:
        auroc: the share of pairs of a member and another in which the member's score is higher; an equal one is half.
        tpr_at_fpr: the most members found by a threshold that takes at most the given share of the others for members.
        balanced_accuracy: that of the best threshold.
    """

    auroc: Float[Tensor, ""]
    tpr_at_fpr: Float[Tensor, ""]
    balanced_accuracy: Float[Tensor, ""]


def membership_inference(
    scores: Float[Tensor, " samples"],
    members: Bool[Tensor, " samples"],
    groups: Int[Tensor, " samples"] | None = None,
    *,
    fpr: float = 0.01,
) -> MembershipAudit:
    """How well scores tell what a model was trained on from what it was not: an audit of one's own model.

    Scores of the same distribution give an AUROC of about 0.5; of finite samples the balanced accuracy of the best
    threshold is above 0.5 then too. A monotone transform of the scores changes nothing.

    Args:
        scores: [N] higher for a likelier member, such as `loss_score` and others make of a `TokenRecord`.
        members: [N] which samples the model was trained on, True or 1.
        groups: [N] whose sample each is, such as a subject's or a file's; the scores of a group are averaged first.
        fpr: the share of the others that may be taken for members, from 0 to 1.

    Raises:
        ValueError: shapes or dtypes that do not fit; scores that are NaN; marks other than 0 and 1; a group with
            members and others.

    Source:
        Carlini, Chien, Nasr, Song, Terzis, Tramèr, 2022, "Membership Inference Attacks From First Principles",
        arXiv:2112.03570, on true positives at low rates of false ones.

    Example:
        >>> audit = membership_inference(torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([True, True, False, False]))
        >>> [value.item() for value in audit]
        [0.75, 0.5, 0.75]
    """
    check_number("membership_inference", "fpr", fpr, least=0, most=1)
    _check("membership_inference", scores, members, groups)
    scores, members = scores.double(), members.bool()
    if groups is not None:
        scores, members = _by_group(scores, members, groups)
    wrong, right = (taken / taken[-1] for taken in counts_above(scores, members))
    auroc = torch.trapezoid(right, wrong)
    at_rate = right.masked_fill(wrong > fpr, 0.0).max()
    known = (wrong + right).isfinite().all()
    best = ((1 + right - wrong) / 2).max()
    return MembershipAudit(*(torch.where(known, value, torch.nan) for value in (auroc, at_rate, best)))


class MembershipInference(Metric):
    """The audit of `membership_inference` over batches and processes, whose scores are kept and gathered.

    Args:
        fpr: the share of the others that may be taken for members, from 0 to 1.
        **options: of `torchmetrics.Metric`.

    Example:
        >>> metric = MembershipInference()
        >>> metric.update(torch.tensor([3.0, 1.0]), torch.tensor([True, True]))
        >>> metric.update(torch.tensor([2.0, 0.0]), torch.tensor([False, False]))
        >>> metric.compute()["auroc"].item()
        0.75
    """

    is_differentiable: bool | None = False
    higher_is_better: bool | None = None
    full_state_update: bool | None = False
    scores: list[Tensor]
    members: list[Tensor]
    groups: list[Tensor]

    def __init__(self, fpr: float = 0.01, **options: Any) -> None:
        super().__init__(**{"dist_sync_fn": rows_of_all, **options})
        check_number("MembershipInference", "fpr", fpr, least=0, most=1)
        self.fpr = fpr
        for name in ("scores", "members", "groups"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self,
        scores: Float[Tensor, " samples"],
        members: Bool[Tensor, " samples"],
        groups: Int[Tensor, " samples"] | None = None,
    ) -> None:
        """Add a batch's scores; give groups in all batches or in none."""
        _check("MembershipInference", scores, members, groups)
        if self.scores and (groups is None) != (not self.groups):
            raise ValueError(
                "MembershipInference: groups came in some batches and not in others; give them in all or in none."
            )
        # Copies: the caller's own tensors may change later.
        self.scores.append(scores.detach().to(torch.float64, copy=True))
        self.members.append(members.to(torch.bool, copy=True))
        if groups is not None:
            self.groups.append(groups.clone())

    def compute(self) -> dict[str, Tensor]:
        """The audit's values by name; NaN without a member or without another."""
        if not len(self.scores):
            return dict.fromkeys(MembershipAudit._fields, torch.tensor(torch.nan, dtype=torch.float64))
        groups = dim_zero_cat(self.groups) if len(self.groups) else None
        audit = membership_inference(dim_zero_cat(self.scores), dim_zero_cat(self.members), groups, fpr=self.fpr)
        return audit._asdict()


def _check(who: str, scores: Tensor, members: Tensor, groups: Tensor | None) -> None:
    check_tensor(who, "scores", scores)
    check_tensor(who, "members", members)
    check_floating(who, "scores", scores)
    for name, tensor in (("members", members), ("groups", groups)):
        if tensor is not None and (tensor.shape != scores.shape or scores.ndim != 1):
            raise ValueError(
                f"{who}: {name} of shape {list(tensor.shape)} came with scores of shape {list(scores.shape)}; give one "
                "number for each sample."
            )
    if not bool(((members == 0) | (members == 1)).all()):
        raise ValueError(f"{who}: members holds values other than 0 and 1; leave out samples of neither kind.")
    if bool(scores.isnan().any()):
        raise ValueError(f"{who}: {int(scores.isnan().sum())} scores are NaN; leave out samples that have none.")


def _by_group(
    scores: Float[Tensor, " samples"], members: Bool[Tensor, " samples"], groups: Int[Tensor, " samples"]
) -> tuple[Float[Tensor, " groups"], Bool[Tensor, " groups"]]:
    """The mean score of each group, and whether it is of members."""
    names, place, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    share = scores.new_zeros(len(names)).index_add(0, place, members.double()) / sizes
    if bool(((share > 0) & (share < 1)).any()):
        mixed = names[(share > 0) & (share < 1)].tolist()
        raise ValueError(
            f"membership_inference: the groups {mixed[:5]} hold members and others; give groups of one of the two."
        )
    return scores.new_zeros(len(names)).index_add(0, place, scores) / sizes, share == 1
