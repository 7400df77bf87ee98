"""Dirichlet calibration: an affine map of the log-probabilities."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.calibrators.matrix_scaling import MatrixScaling, unmasked

# Log-probabilities below log(1e-12) are indistinguishable: a single absurd one would otherwise dominate the fit.
_LEAST = math.log(1e-12)


class DirichletCalibration(MatrixScaling):
    """Dirichlet calibration: the calibrated logits are ``W log p + b`` with ``p = softmax(logits)``.

    ``min mean_n CE(W log p_n + b, target_n) + λ / (C (C - 1)) sum_{i≠j} W_ij² + μ / C sum_i b_i²``, a convex problem,
    solved to its optimum in float64. It is the calibration map of probabilities that are Dirichlet-distributed given
    the class. Log-probabilities count as at least log(1e-12). It may change the predicted class.

    Args:
        off_diagonal_penalty: λ, at least 0.
        intercept_penalty: μ, at least 0.
        ignore_index: samples with this target are ignored.

    Attributes:
        weight: [C, C] the fitted W, empty before `fit`.
        offset: [C] the fitted b.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Raises:
        ValueError: a negative penalty; input that `fit` can't use; use before `fit`.

    Warns:
        UserWarning: no optimum was reached, for example where the classes are separable; a class without rows.

    Source:
        Kull et al., 2019, "Beyond Temperature Scaling: Obtaining Well-Calibrated Multiclass Probabilities with
        Dirichlet Calibration", arXiv:1910.12656, with off-diagonal and intercept regularisation (ODIR). The authors
        choose λ and μ by cross-validation; with many samples the defaults matter little.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> calibrator = DirichletCalibration().fit(logits, torch.tensor([0, 1, 1, 0]))
        >>> torch.softmax(calibrator(logits[:1]), dim=-1)
        tensor([[0.5000, 0.5000]])
    """

    def _features(self, logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        return unmasked(torch.log_softmax(logits, dim=-1)).clamp(min=_LEAST)
