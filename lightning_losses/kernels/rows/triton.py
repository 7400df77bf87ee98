"""The options of the Triton kernel of distillation; it is imported when it runs, because importing takes a second."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from lightning_losses.kernels.rows.objectives import objective_of
from lightning_losses.kernels.rows.row_wise import RowFunction
from lightning_losses.kernels.rows.teachers import Teacher


def refuses_kernel(loss: RowFunction, weight: Tensor, teacher: Teacher | None) -> str | None:
    """Why the kernel can't evaluate a loss on a head, as a sentence; None if it can."""
    if teacher is None or objective_of(loss) is None:
        return "impl='triton' is for divergences from a teacher, and has no functions for this one; use 'auto'."
    if find_spec("triton") is None:
        return "impl='triton' needs the package triton, which is not installed; use 'auto'."
    if weight.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return (
            f"impl='triton' needs a CUDA device, and weight is on {weight.device.type}; use 'auto', or set "
            "TRITON_INTERPRET=1 before Python starts."
        )
    if weight.dtype == torch.float64:
        return "impl='triton' computes in float32, and weight is float64; use 'auto'."
    return None
