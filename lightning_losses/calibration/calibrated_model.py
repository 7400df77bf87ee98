"""A model with its calibrator behind it, as one module."""

from typing import Any

from torch import Tensor, nn

from lightning_losses.calibration.base import Calibrator


class CalibratedModel(nn.Module):
    """A model with its calibrator behind it: called like the model, it returns calibrated logits.

    It is an ordinary module of tensor operations, so that `torch.export` takes it whole.

    Args:
        model: returns logits, or an object with `logits`.
        calibrator: fitted.

    Raises:
        ValueError: a calibrator that is not fitted.

    Example:
        >>> import torch
        >>> from lightning_losses.calibration import TemperatureScaling
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
        output = self.model(*args, **kwargs)
        calibrated: Tensor = self.calibrator(output if isinstance(output, Tensor) else output.logits)
        return calibrated
