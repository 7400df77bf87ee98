"""Post-hoc logit adjustment: takes the advantage of frequent classes from logits that cross-entropy trained."""

from typing import ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.calibrators.base import Calibrator
from lightning_losses.losses.class_prior import ClassCounts, ClassPrior, Smoothing
from lightning_losses.numerics.checks import check_number


class LogitAdjuster(Calibrator):
    """Post-hoc logit adjustment: ``z - τ log π``, π being the classes' shares of the training set.

    With τ = 1 and logits whose softmax is the posterior ``p(y | x)``, the largest adjusted logit is that of the class
    with the largest ``p(x | y)``: the prediction with the best balanced accuracy. The softmax of the adjusted logits is
    the posterior where all classes are equally frequent; on data as unequal as the training set it is less calibrated
    than before.

    It is fitted as soon as it has counts: those of the constructor, those of `set_counts`, or those that the callback
    `ClassCounts` counted, which also tells the calibrator of a `PostHocCalibration`. `fit` then adds nothing.

    Args:
        tau: τ, at least 0.
        class_counts: a number of training samples for each class; None if they come later.
        smoothing: how a class without samples is counted: as 1 ("clamp"), or each class with 1 more ("add_one").
        ignore_index: samples with this target are ignored.

    Attributes:
        offset: [C] ``-τ log π``, empty without counts.

    Shapes:
        logits: [..., C].

    Raises:
        ValueError: τ below 0; counts that are no numbers of at least 0, or all 0; use without counts.

    Source:
        Menon, Jayasumana, Rawat, Jain, Veit, Kumar, 2020, "Long-tail learning via logit adjustment", arXiv:2007.07314.

    Example:
        >>> LogitAdjuster(class_counts=[3, 1])(torch.tensor([[0.5, 0.0]])).argmax(dim=-1)
        tensor([1])
    """

    learned: ClassVar[tuple[str, ...]] = ("offset",)
    offset: Tensor

    def __init__(
        self,
        tau: float = 1.0,
        class_counts: ClassCounts | None = None,
        smoothing: Smoothing = "clamp",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(ignore_index)
        check_number("LogitAdjuster", "tau", tau, least=0, most=1e9)
        # Refuses another choice before there are counts.
        ClassPrior("LogitAdjuster", smoothing=smoothing)
        self.tau = tau
        self.smoothing: Smoothing = smoothing
        self.class_counts: list[float] | None = None
        if class_counts is not None:
            self.set_counts(class_counts)

    @property
    def known(self) -> bool:
        """Whether it has counts."""
        return self.fitted

    def set_counts(self, class_counts: ClassCounts) -> Self:
        """Take the training samples of each class.

        Raises:
            ValueError: counts that are no numbers of at least 0, or all 0.
        """
        prior = ClassPrior("LogitAdjuster", class_counts, self.smoothing)
        self.class_counts = prior.counts.tolist()
        offset = -self.tau * prior.log_prior(len(prior.counts))
        self.offset = offset.to(self.offset.device, torch.float32)
        return self

    def check_known(self) -> None:
        """Raise ``ValueError`` if it has no counts."""
        if not self.known:
            raise ValueError(
                "LogitAdjuster: it is fitted to the counts of the training set, and has none; give class_counts=[...], "
                "a number for each class, or the trainer the callback ClassCounts."
            )

    @property
    def _classes(self) -> int:
        return len(self.offset)

    def _fit(self, logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"]) -> dict[str, Tensor]:
        self.check_known()
        if logits.shape[-1] != self._classes:
            raise ValueError(
                f"LogitAdjuster: logits of {logits.shape[-1]} classes came with class_counts of {self._classes}; give "
                "one number for each class."
            )
        return {"offset": self.offset}

    def _calibrate(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (self._widened(logits) + self.offset).to(logits.dtype)
