"""What losses of clean and attacked inputs share: rows of both logits, checked together."""

from abc import abstractmethod
from typing import ClassVar, NamedTuple

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss, index_rows
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import classification_rows, required_target


class AttackedRows(NamedTuple):
    """Checked logits of clean and attacked inputs in full precision, and their target; ignored rows are 0."""

    logits: Float[Tensor, "*rows classes"]
    attacked_logits: Float[Tensor, "*rows classes"]
    target: Shaped[Tensor, "..."]
    kept: Bool[Tensor, "*rows"] | None


class AttackedLoss(RowLoss):
    """A value per row from the logits of clean inputs, those of attacked inputs, and the target.

    Attributes:
        soft_targets: whether a target may be probabilities [..., C].
    """

    soft_targets: ClassVar[bool] = False

    @abstractmethod
    def rows(self, given: AttackedRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        attacked_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        check_floating(self._identifier, "attacked_logits", attacked_logits)
        checked = classification_rows if self.soft_targets else index_rows
        clean = checked(self._identifier, logits, target, self.ignore_index)
        if attacked_logits.shape != logits.shape:
            raise ValueError(
                f"{self._identifier}: attacked_logits of shape {list(attacked_logits.shape)} came with logits of shape "
                f"{list(logits.shape)}; give both the same samples."
            )
        attacked = checked(self._identifier, attacked_logits, target, self.ignore_index)
        classes = required_target(self._identifier, clean.target)
        given = AttackedRows(clean.logits, attacked.logits.to(clean.logits.dtype), classes, clean.kept)
        return reduce(self.rows(given), self.reduction, clean.kept)
