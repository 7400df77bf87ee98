"""Reflective label corrector: labels that are predicted as likely are taken as missing, and added."""

from dataclasses import field
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.class_prior import ClassCounts, ClassPrior
from lightning_losses.losses.multi_label.asymmetric import Clip, asymmetric, clipped_log
from lightning_losses.losses.multi_label.multi_grained_focal import rarity
from lightning_losses.numerics.rows import label_rows
from lightning_losses.numerics.settings import Bound, NonNegative, Share, Weight, Whole


class ReflectiveLabelCorrector(Loss):
    """Reflective label corrector: labels that are predicted as likely are taken as missing, and added.

    From epoch `start` on, a label that a sample lacks counts as one that it has where ``p > threshold`` and p is above
    the label's mean in the batch. On the corrected labels it is the loss of `MultiGrainedFocal`, with p the sigmoid of
    the logit, less `margin` where the sample has the label, summed and divided by the number of labels that samples
    have. The counts behind the weights are those of the training set and what was added in the epoch so far. Before
    `start` it is 0, and it is added to another loss. Unknown labels stay unknown.

    Args:
        class_counts: [C] how many training samples have each label, 0 counts as 1; None where `ClassCounts` counts
            them.
        threshold: of the probability, in [0, 1].
        margin: of the labels that a sample has, at least 0.
        gamma_pos: γ₊, at least 0.
        gamma_neg: γ₋, at least 0.
        clip: by how much the probability of a label that is lacking is lowered, in [0, 1).
        power: of the weights, above 0.
        start: the first epoch with the term, counted from 0.
        ignore_index: stands in `multi_hot` for a label that is not known.

    Shapes:
        logits: [..., C]; multi_hot: [..., C]; epoch: a number.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; counts of another number of labels; labels or options out of
            range.

    Source:
        Zhang et al., 2023, "Learning in Imperfect Environment: Multi-Label Classification with Long-Tailed Distribution
        and Partial Labels", arXiv:2304.10539, and their code, wannature/COMIC, which multiplies by its batch size, 32.
        `ObjectiveMixin` counts what was added; the code counts in every call.

    Example:
        >>> loss = ReflectiveLabelCorrector([90, 10])
        >>> logits, lacking = torch.tensor([[3.0, -3.0], [-3.0, -3.0]]), torch.tensor([[0, 1], [0, 1]])
        >>> loss.corrected(logits, lacking, epoch=1).labels
        tensor([[1., 1.],
                [0., 1.]])
    """

    status = "confirmed"
    evidence = "wannature/COMIC"
    batch_coupled = True

    class_counts: ClassCounts | None = None
    threshold: Share = 0.7
    margin: Weight = 1.0
    gamma_pos: NonNegative = 0.0
    gamma_neg: NonNegative = 3.0
    clip: Clip = 0.05
    power: Annotated[float, Bound(above=0)] = 1 / 6
    start: Whole = 1
    ignore_index: int = field(default=-100, kw_only=True)
    prior: ClassPrior = field(init=False)
    added: Tensor = field(init=False)
    added_in: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prior = ClassPrior(self._identifier, self.class_counts)
        # Without a shape before the first step.
        self.register_buffer("added", torch.zeros(0))
        self.register_buffer("added_in", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        multi_hot: Shaped[Tensor, "*rows classes"],
        epoch: int | Float[Tensor, ""],
    ) -> Float[Tensor, ""]:
        """Check and evaluate; the class documents what."""
        given = self.corrected(logits, multi_hot, epoch)
        self.prior.smoothed(given.logits.shape[-1])  # refuses another number of labels
        counts = (self.prior.counts + self._added_before(epoch) + given.added).clamp(min=1)
        weight = rarity(counts, self.power).to(given.logits.dtype)
        with torch.autocast(logits.device.type, enabled=False):
            log_p, log_q = F.logsigmoid(given.logits), clipped_log(given.logits, self.clip)
            gammas = self.gamma_pos, self.gamma_neg + weight
            values = weight * asymmetric(log_p, log_q, given.labels, gammas=gammas, detach_focal=True)
        total = values.masked_fill(~given.counted, 0.0).sum()
        return (epoch >= self.start) * total / given.labels.masked_fill(~given.counted, 0.0).sum().clamp(min=1)

    def corrected(
        self,
        logits: Float[Tensor, "*rows classes"],
        multi_hot: Shaped[Tensor, "*rows classes"],
        epoch: int | Float[Tensor, ""],
    ) -> "CorrectedLabels":
        """The labels with those that are added."""
        rows = label_rows(self._identifier, logits, multi_hot, self.ignore_index)
        labels = rows.multi_hot.flatten(0, -2)
        z = rows.logits.flatten(0, -2) - self.margin * labels
        counted = torch.ones_like(labels, dtype=torch.bool) if rows.counted is None else rows.counted.flatten(0, -2)
        p = torch.sigmoid(z.detach())
        mean = p.masked_fill(~counted, 0.0).sum(dim=0) / counted.sum(dim=0).clamp(min=1)
        missing = (p > self.threshold) & (p > mean) & counted
        labels = torch.where(missing & (epoch >= self.start), 1.0, labels)
        added = (labels - rows.multi_hot.flatten(0, -2)).sum(dim=0).to(self.added.dtype)
        return CorrectedLabels(z, labels, added, counted)

    @torch.no_grad()
    def after_step(
        self,
        logits: Float[Tensor, "*rows classes"],
        multi_hot: Shaped[Tensor, "*rows classes"],
        epoch: int | Float[Tensor, ""],
    ) -> None:
        """Count the labels that were added in the step."""
        self.added = self._added_before(epoch) + self.corrected(logits, multi_hot, epoch).added
        self.added_in.fill_(epoch)

    def _added_before(self, epoch: int | Float[Tensor, ""]) -> Float[Tensor, "..."]:
        """What was added in this epoch so far."""
        before = self.added if self.added.numel() else self.added.new_zeros(())
        return torch.where(self.added_in == epoch, before, 0.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The buffer takes the shape that the state brings.
        if isinstance(value := state_dict.get(prefix + "added"), Tensor):
            self.added = torch.empty_like(value, device=self.added.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The rows with a label that is known."""
        return (tensors["multi_hot"] != self.ignore_index).any(dim=-1).sum()


class CorrectedLabels(NamedTuple):
    """Rows of logits less the margin, of labels with those that are added, and how many of each label were."""

    logits: Float[Tensor, "rows classes"]
    labels: Float[Tensor, "rows classes"]
    added: Float[Tensor, " classes"]
    counted: Bool[Tensor, "rows classes"]
