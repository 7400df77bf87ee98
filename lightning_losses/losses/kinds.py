"""The recurring kinds of losses, by their inputs.

Each kind has one `forward`, which checks, widens and reduces. A loss of the kind writes one method: `rows`, with a
value for each row, or `measure`, with a value for the batch. `given` makes the argument of `rows`; kernels call it too
and reduce by themselves. A loss with other inputs subclasses `Loss` and writes its own `forward`.
"""

from abc import abstractmethod
from dataclasses import field
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.cosines import warn_of_no_cosines
from lightning_losses.numerics.checks import check_embeddings, check_vectors
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import full_precision, known_everywhere, log_probabilities
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.rows import (
    LabelRows,
    PairedRows,
    check_labels,
    class_indices,
    classification_rows,
    distillation_rows,
    label_rows,
    on_shared_support,
    pick,
    required_target,
)
from lightning_losses.numerics.settings import Positive
from lightning_losses.numerics.vectors import alike_vectors, at_unit_size

# Above this temperature two distributions are nearly uniform, and τ² multiplies float32's rounding error.
_SINGLE_PRECISION_TEMPERATURE = 64.0


class RowLoss(Loss):
    """A loss that has a value for each row (a sample, a token or a pixel) and reduces them.

    Args:
        ignore_index: rows with this target, or with probabilities that are all 0, are ignored.
        reduction: "mean" over the kept rows, "sum", or "none".
    """

    ignore_index: int = field(default=-100, kw_only=True)
    reduction: Reduction = field(default="mean", kw_only=True)


class ClassificationRows(NamedTuple):
    """Checked logits in full precision and their target; ignored rows, if any, are 0 and False in `kept`."""

    logits: Float[Tensor, "*rows classes"]
    target: Shaped[Tensor, "..."]
    kept: Bool[Tensor, "*rows"] | None


class ClassificationLoss(RowLoss):
    """A value per row from logits and the target: class indices, or probabilities where the loss takes them.

    Attributes:
        soft_targets: whether a target may be probabilities [..., C].
        least_classes: the least number of classes.
        takes_cosines: whether the logits are to be cosines, which the loss scales by itself.
    """

    takes_cosines: ClassVar[bool] = False
    soft_targets: ClassVar[bool] = True
    least_classes: ClassVar[int] = 2

    @abstractmethod
    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""

    def given(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> ClassificationRows:
        """The checked argument of `rows`."""
        checked = _classification_rows if self.soft_targets else index_rows
        return checked(self._identifier, logits, target, self.ignore_index)

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        given = self.given(logits, target)
        return reduce(self.rows(given), self.reduction, given.kept)


class CrossEntropyFunction(ClassificationLoss):
    """A function of each row's cross-entropy; fused heads compute it at the cost of cross-entropy."""

    soft_targets = False

    @abstractmethod
    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row from ``-log p`` of its target, elementwise."""

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return self.of_cross_entropy(-pick(log_probabilities(given.logits), given.target))


class OffsetCrossEntropy(ClassificationLoss):
    """Cross-entropy of the logits plus a vector that the loss knows, which fused heads take as a bias of the head."""

    @abstractmethod
    def offset(self, classes: int) -> Float[Tensor, " classes"]:
        """What is added to the logits of each row; constant."""

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        moved = given.logits + self.offset(given.logits.shape[-1]).to(given.logits)
        return cross_entropy(log_probabilities(moved), given.target)


class MarginLoss(ClassificationLoss):
    """Cross-entropy of scaled cosines, of which a margin lowers the target's; fused heads know how.

    ``-log softmax(s z')_y`` with ``z'_y`` the target's cosine with its margin, and ``z'_k = z_k`` of the other classes.
    Logits that are no cosines are warned of once, on a CPU.

    Args:
        scale: s, above 0.
    """

    soft_targets = False
    takes_cosines = True

    scale: Positive = field(default=64.0, kw_only=True)

    @abstractmethod
    def with_margin(self, cosine: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """What the target's cosine becomes, elementwise."""

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        warn_of_no_cosines(self, given.logits)
        own = self.with_margin(pick(given.logits, given.target))
        moved = given.logits.scatter(-1, given.target.unsqueeze(-1), own.unsqueeze(-1))
        return -pick(log_probabilities(self.scale * moved), given.target)


class ClassWeightedLoss(ClassificationLoss):
    """A value a row, weighed by the row's class; the mean over class indices is then weighted too, as in torch.

    A loss of it writes `rows`, weighted, and `class_weights`, if it has any.

    Attributes:
        reweights: whether the weights count; `DeferredReweighting` has them wait for its epoch.
    """

    reweights = True

    def class_weights(self, classes: int) -> Float[Tensor, " classes"] | None:
        """The weight of each class, at least 0; None where all are equal, and for weights that wait."""
        return None

    @property
    def weighs_classes(self) -> bool:
        """Whether classes have weights, now or later."""
        return True

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the mean over class indices is weighted by their classes' weights."""
        given = self.given(logits, target)
        value, weight = self.rows(given), self.class_weights(given.logits.shape[-1])
        if self.reduction != "mean" or weight is None or given.target.is_floating_point():
            return reduce(value, self.reduction, given.kept)
        mass = reduce(weight.to(value)[given.target], "sum", given.kept)
        return reduce(value, "sum", given.kept) / torch.where(mass > 0, mass, 1.0)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What reduction "mean" divides by: the samples that are not ignored, each with its class's weight."""
        target, weight = tensors["target"], self.class_weights(tensors["logits"].shape[-1])
        if weight is None or target.is_floating_point():
            return super().denominator(**tensors)
        kept = target != self.ignore_index
        return reduce(weight[target.masked_fill(~kept, 0)], "sum", kept)


class MultiLabelLoss(RowLoss):
    """A value for each label from logits and `multi_hot`; a row's value is the sum over its labels.

    A label that is not known, or whose logit is -inf, counts nothing.

    Args:
        ignore_index: stands in `multi_hot` for a label that is not known; rows without any other are ignored.
        reduction: "mean" over the kept rows of the sums over labels, "sum", or "none".
    """

    @abstractmethod
    def labels(self, given: LabelRows) -> Float[Tensor, "*rows classes"]:
        """The value of each label."""

    def forward(
        self, logits: Float[Tensor, "*rows classes"], multi_hot: Shaped[Tensor, "*rows classes"]
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        given = label_rows(self._identifier, logits, multi_hot, self.ignore_index)
        with torch.autocast(logits.device.type, enabled=False):
            values = self.labels(given)
        if given.counted is not None:
            values = values.masked_fill(~given.counted, 0.0)
        return reduce(values.sum(dim=-1), self.reduction, given.kept)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What reduction "mean" divides by: the rows with a label that is known."""
        return (tensors["multi_hot"] != self.ignore_index).any(dim=-1).sum()


class TaughtLoss(RowLoss):
    """A loss that has a value for each row from the logits of student and teacher.

    A logit of -inf masks a class: its probability is 0. If one network alone masks a class and that makes a term
    infinite, the term is computed with a probability of e^-100 instead. So the value stays finite and at least 0, and
    pulls the student towards the teacher's classes.

    Args:
        shared_support: compare the networks on the classes that neither masks, with both softmaxes over only these
            classes.

    Attributes:
        least_classes: the least number of classes.
        needs_tail: whether a class that the teacher alone masks would make the value infinite without that rule. If so,
            a teacher that stores only k logits should also store the probability of the rest, as `cache_teacher` does,
            or be used with `shared_support`.
    """

    least_classes: ClassVar[int] = 2
    needs_tail: ClassVar[bool] = False

    shared_support: bool = field(default=False, kw_only=True)

    def pairs(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."] | None,
    ) -> PairedRows:
        """Both networks' rows, checked, on the shared support if `shared_support` is set."""
        rows = distillation_rows(
            self._identifier, logits, teacher_logits, target, self.ignore_index, least_classes=self.least_classes
        )
        if not self.shared_support:
            return rows
        student, teacher = on_shared_support(rows.logits, rows.teacher_logits)
        return rows._replace(logits=student, teacher_logits=teacher)

    @property
    def in_double(self) -> bool:
        """Whether rows are evaluated in float64 if the device has it: at temperatures above 64."""
        temperature = getattr(self, "temperature", None)
        # Comparing a learned temperature, a tensor, would synchronise with the device.
        return isinstance(temperature, int | float) and temperature > _SINGLE_PRECISION_TEMPERATURE

    def widened(self, scores: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        """Scores to be divided by the temperature, in float64 if `in_double` and the device has it."""
        return scores.double() if self.in_double and scores.device.type != "mps" else scores


class DistillationRows(NamedTuple):
    """Checked logits of student and teacher in full precision; the teacher's have no gradient."""

    logits: Float[Tensor, "*rows classes"]
    teacher_logits: Float[Tensor, "*rows classes"]
    kept: Bool[Tensor, "*rows"] | None


class DistillationLoss(TaughtLoss):
    """A value per row from the logits of student and teacher; a target only marks ignored rows."""

    @abstractmethod
    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""

    def given(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> DistillationRows:
        """The checked argument of `rows`."""
        rows = self.pairs(logits, teacher_logits, target)
        return DistillationRows(rows.logits, rows.teacher_logits, rows.kept)

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        given = self.given(logits, teacher_logits, target)
        return reduce(values_of(self, given), self.reduction, given.kept)


def values_of(loss: "DistillationLoss | LabelledDistillationLoss", given: Any) -> Float[Tensor, "*rows"]:
    """The value of each row, in float32 or wider; evaluated in float64 if the loss asks for it.

    Args:
        loss: the loss whose `rows` is called.
        given: the argument of `rows`.
    """
    wide = given._replace(logits=loss.widened(given.logits), teacher_logits=loss.widened(given.teacher_logits))
    return loss.rows(wide).to(given.logits.dtype) if loss.in_double else loss.rows(given)


class LabelledRows(NamedTuple):
    """As `DistillationRows`, with the target as it was given, and its class (the likeliest one of probabilities)."""

    logits: Float[Tensor, "*rows classes"]
    teacher_logits: Float[Tensor, "*rows classes"]
    target: Shaped[Tensor, "..."]
    kept: Bool[Tensor, "*rows"] | None

    @property
    def label(self) -> Int[Tensor, "*rows"]:
        """The target's class; for probabilities the likeliest."""
        return class_indices(self.target)


class LabelledDistillationLoss(TaughtLoss):
    """A value per row from the logits of student and teacher and the target."""

    @abstractmethod
    def rows(self, given: LabelledRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""

    def given(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
    ) -> LabelledRows:
        """The checked argument of `rows`."""
        rows = self.pairs(logits, teacher_logits, required_target(self._identifier, target))
        return LabelledRows(rows.logits, rows.teacher_logits, required_target(self._identifier, rows.target), rows.kept)

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        given = self.given(logits, teacher_logits, target)
        return reduce(values_of(self, given), self.reduction, given.kept)


class Predictions(NamedTuple):
    """Flat rows of predictions: confidences, with gradient, and outcomes, without."""

    log_p: Float[Tensor, "rows classes"]
    confidence: Float[Tensor, " rows"]
    correct: Float[Tensor, " rows"]
    target: Int[Tensor, " rows"]
    kept: Float[Tensor, " rows"]

    @property
    def number(self) -> Float[Tensor, ""]:
        """The number of kept rows, at least 1."""
        return self.kept.sum().clamp(min=1)


class PredictionLoss(Loss):
    """A value per batch from the confidence of its predictions, and whether they are right.

    Args:
        ignore_index: rows with this target are ignored.
    """

    batch_coupled = True

    ignore_index: int = field(default=-100, kw_only=True)

    @abstractmethod
    def measure(self, given: Predictions) -> Float[Tensor, ""]:
        """The value of the batch."""

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        rows = index_rows(self._identifier, logits, target, self.ignore_index)
        log_p = log_probabilities(rows.logits.reshape(-1, rows.logits.shape[-1]))
        label = rows.target.reshape(-1)
        top, predicted = log_p.max(dim=-1)
        kept = torch.ones_like(top) if rows.kept is None else rows.kept.reshape(-1).to(top)
        return self.measure(Predictions(log_p, top.exp(), (predicted == label).to(top), label, kept))


class RegressionLoss(Loss):
    """A loss of what is predicted of real numbers: of their distribution, its quantiles, or samples of it.

    Every tensor has a place of its own for each number of `regression_target`; nothing is broadcast.

    Args:
        reduction: "mean" over the numbers, "sum", or "none".
    """

    reduction: Reduction = field(default="mean", kw_only=True)


class FeaturePairs(NamedTuple):
    """Checked features of student and teacher for the same samples, in full precision; the teacher's are constant."""

    features: Float[Tensor, "batch dim"]
    teacher_features: Float[Tensor, "batch teacher_dim"]


class RelationLoss(Loss):
    """A value per batch from the relations among its samples, in the student's features and in the teacher's.

    The scale of all features of a network must not matter: `measure` is given both at a largest size of 1. A batch of
    one has no relations: its value is 0, with zero gradients.
    """

    batch_coupled = True

    @abstractmethod
    def measure(self, given: FeaturePairs) -> Float[Tensor, ""]:
        """The value of a batch of at least two."""

    def forward(
        self, features: Float[Tensor, "batch dim"], teacher_features: Float[Tensor, "batch teacher_dim"]
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        check_vectors(self._identifier, features, teacher_features)
        student, teacher = full_precision(features), full_precision(teacher_features.detach())
        if len(student) < 2:
            return student.sum() * 0.0
        with torch.autocast(features.device.type, enabled=False):
            return self.measure(
                FeaturePairs(*(at_unit_size(one, (0, 1)) for one in (student, teacher.to(student.dtype))))
            )


class ClassedEmbeddings(NamedTuple):
    """Checked embeddings in full precision and their classes; ignored rows are 0 and False in `kept`.

    Attributes:
        pairs: which two different samples may be compared: [B, B], False on the diagonal and where one is ignored.
        alike: which two are of one class, whether they may be compared or not.
    """

    embeddings: Float[Tensor, "batch dim"]
    target: Int[Tensor, " batch"]
    kept: Bool[Tensor, " batch"]

    @property
    def pairs(self) -> Bool[Tensor, "batch batch"]:
        """Which two different samples may be compared."""
        own = torch.arange(len(self.kept), device=self.kept.device)
        return self.kept.unsqueeze(0) & self.kept.unsqueeze(1) & (own.unsqueeze(0) != own.unsqueeze(1))

    @property
    def alike(self) -> Bool[Tensor, "batch batch"]:
        """Which two samples are of one class."""
        return self.target.unsqueeze(0) == self.target.unsqueeze(1)


class EmbeddingLoss(Loss):
    """A value per batch from its embeddings and their classes, which may be any whole numbers.

    Args:
        ignore_index: samples with this target are ignored, and nothing is compared with them.
    """

    batch_coupled = True

    ignore_index: int = field(default=-100, kw_only=True)

    @abstractmethod
    def measure(self, given: ClassedEmbeddings) -> Float[Tensor, ""]:
        """The value of a batch of at least one."""

    def forward(self, embeddings: Float[Tensor, "batch dim"], target: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        check_embeddings(self._identifier, "embeddings", embeddings)
        kept = check_labels(self._identifier, target, len(embeddings), self.ignore_index)
        if len(embeddings) == 0:
            return full_precision(embeddings).sum()
        rows = full_precision(embeddings)
        if not known_everywhere(kept):
            # An ignored row may hold anything, also inf.
            rows = rows.masked_fill(~kept.unsqueeze(-1), 0.0)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.measure(ClassedEmbeddings(rows, target, kept))


class Views(NamedTuple):
    """Checked embeddings of two views of the same samples, in full precision."""

    embeddings: Float[Tensor, "batch dim"]
    embeddings_b: Float[Tensor, "batch dim"]


class TwoViewLoss(Loss):
    """A value per batch from the embeddings of two views of its samples.

    A batch of one has no statistics over its samples: its value is 0, with zero gradients.
    """

    batch_coupled = True

    @abstractmethod
    def measure(self, given: Views) -> Float[Tensor, ""]:
        """The value of a batch of at least two."""

    def forward(
        self, embeddings: Float[Tensor, "batch dim"], embeddings_b: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        views = Views(*alike_vectors(self._identifier, embeddings=embeddings, embeddings_b=embeddings_b))
        if len(embeddings) < 2:
            return (views.embeddings.sum() + views.embeddings_b.sum()) * 0.0
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.measure(views)


def _classification_rows(
    loss: str, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."], ignore_index: int
) -> ClassificationRows:
    rows = classification_rows(loss, logits, target, ignore_index)
    return ClassificationRows(rows.logits, required_target(loss, rows.target), rows.kept)


def index_rows(
    loss: str, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."], ignore_index: int
) -> ClassificationRows:
    """Rows for a loss that takes class indices only.

    Raises:
        ValueError: as `classification_rows`, and for a target of probabilities.
    """
    probabilities = (
        isinstance(target, Tensor) and target.is_floating_point() and target.shape == getattr(logits, "shape", None)
    )
    if isinstance(target, Tensor) and target.dtype != torch.int64 and not probabilities:
        raise ValueError(f"{loss}: target has dtype {target.dtype}; give int64 class indices.")
    rows = _classification_rows(loss, logits, target, ignore_index)
    if probabilities:
        raise ValueError(f"{loss}: a target of probabilities came; give int64 class indices.")
    return rows
