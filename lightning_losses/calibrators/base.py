"""The interface of all post-hoc calibrators: fit once, then map logits to calibrated logits."""

from typing import ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.calibrators.fitted import FittedModule
from lightning_losses.calibrators.rows_to_fit import rows_to_fit
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision


class Calibrator(FittedModule):
    """Base of the post-hoc calibrators: `fit(logits, target)` once, then `forward(logits)` gives calibrated logits.

    The softmax of the output of `forward` (the sigmoid, for binary logits of shape [N]) is the calibrated probability.
    The learned values are buffers, empty until `fit`: an unfitted calibrator raises an error. A fitted one moves with
    its module between devices, is saved in checkpoints and exports with `torch.export`. The buffers keep the precision
    of the logits in `fit`, even if the module is converted to another precision.

    A subclass names its buffers in `learned` and implements two methods. `_fit` receives checked float rows and class
    indices, which it must not change, with gradients enabled, and returns the buffers' values. `_calibrate` maps logits
    to logits.

    Attributes:
        learned: the names of the buffers that `fit` fills.
        keeps_argmax: whether the calibrated prediction always equals the uncalibrated one, so that accuracy can't
            change, except if rounding makes close logits equal.
        takes_binary: whether binary logits of shape [N], one score per sample, are accepted too.
        views: the transformed views of a sample, whose logits follow the sample's own, [..., 1 + V, C]; usually none.
    """

    keeps_argmax: ClassVar[bool] = False
    takes_binary: ClassVar[bool] = False
    views: tuple[str, ...] = ()

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def fit(self, logits: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"]) -> Self:
        """Learn the calibration map from held-out logits, deterministically, also within `torch.inference_mode`.

        Args:
            logits: [..., C] scores of data that the model was not trained on; [N] where binary logits are accepted.
            target: [...] int64 class indices; rows with `ignore_index` are left out.

        Returns:
            The calibrator itself.

        Raises:
            ValueError: shapes or dtypes that do not fit, only one class, NaN or inf logits, targets outside the
                classes, no rows.
        """
        with torch.inference_mode(False), torch.enable_grad():
            rows, labels = self._rows(logits, target)
            self.keep(self._fit(rows, labels), rows)
        return self

    def forward(self, logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        """Calibrated logits; half-precision logits become float32, and a class that is masked by -inf stays masked."""
        self.check_fitted()
        check_floating(type(self).__name__, "logits", logits)
        if self._classes is not None and (logits.ndim == 0 or logits.shape[-1] != self._classes):
            raise ValueError(
                f"{type(self).__name__}: logits of shape {list(logits.shape)} came, but it was fitted on "
                f"{self._classes} classes; give [..., {self._classes}]."
            )
        calibrated = self._calibrate(full_precision(logits))
        return calibrated if self._single else calibrated.masked_fill(self.original(logits) == -torch.inf, -torch.inf)

    def original(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*rows classes"]:
        """The samples' own logits, without those of their views."""
        return logits[..., 0, :] if self.views else logits

    @property
    def _single(self) -> bool:
        """Whether it was certainly fitted on binary logits of shape [N], which can't be masked."""
        return False

    @property
    def _classes(self) -> int | None:
        """The number of classes in the fit; None if it accepts any number."""
        return None

    @property
    def _precision(self) -> torch.dtype:
        """The precision of the logits in `fit`."""
        # `get_buffer` breaks the graph of torch.compile before 2.11.
        learned: Tensor = getattr(self, self.learned[0])
        return learned.dtype

    def _widened(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Logits in the higher of their precision and that of the fit."""
        return logits.to(torch.promote_types(logits.dtype, self._precision))

    def _fit(self, logits: Float[Tensor, "*shape"], target: Int[Tensor, " rows"]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _calibrate(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        raise NotImplementedError

    def _rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return rows_to_fit(type(self).__name__, logits, target, self.ignore_index, takes_binary=self.takes_binary)
