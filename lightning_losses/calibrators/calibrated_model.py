"""A model followed by its calibrator, as one module."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_losses.calibrators.base import Calibrator
from lightning_losses.calibrators.image_views import image_views


class CalibratedModel(nn.Module):
    """A model followed by its calibrator: called like the model, it returns calibrated logits.

    If the calibrator uses transformed views of images, the model also predicts each view of its input. It consists of
    ordinary tensor operations, so `torch.export` can export it whole.

    Args:
        model: a model that returns logits, or an object with `logits`; it is called with images alone if the calibrator
            has views.
        calibrator: a fitted calibrator.

    Raises:
        ValueError: a calibrator that is not fitted; other inputs than images if it has views.

    Example:
        >>> from lightning_losses.calibrators import TemperatureScaling
        >>> logits = torch.tensor([[3.0, 0.0]]).repeat(4, 1)
        >>> calibrator = TemperatureScaling().fit(logits, torch.tensor([0, 0, 0, 1]))
        >>> CalibratedModel(nn.Identity(), calibrator)(logits).softmax(dim=-1)[0]
        tensor([0.7500, 0.2500])
    """

    def __init__(self, model: nn.Module, calibrator: Calibrator) -> None:
        super().__init__()
        if not calibrator.fitted:
            raise ValueError(f"CalibratedModel: the {type(calibrator).__name__} is not fitted; fit or load it first.")
        self.model = model
        self.calibrator = calibrator

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Calibrated logits of the model's input."""
        if self.calibrator.views and len(args) != 1:
            raise ValueError(
                f"CalibratedModel: {len(args)} inputs by place and {sorted(kwargs)} by name came; give one by place, "
                "the images that the calibrator's views are made of."
            )
        logits = self._logits(*args, **kwargs)
        if self.calibrator.views:
            (images,) = args
            views = image_views(images, self.calibrator.views)
            logits = torch.stack([logits, *(self._logits(view, **kwargs) for view in views)], dim=-2)
        calibrated: Tensor = self.calibrator(logits)
        return calibrated

    def _logits(self, *args: Any, **kwargs: Any) -> Tensor:
        output = self.model(*args, **kwargs)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits
