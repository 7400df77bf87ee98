"""MGDA: the shortest vector in the convex hull of the gradients, along which no term gets worse."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import GradientBalancing
from lightning_losses.balancing.quadratic import shortest_mean


class MGDA(GradientBalancing):
    """MGDA, multiple-gradient descent: ``d = Σ w g`` with the weights on the simplex that make it shortest.

    Every term's gradient has ``g·d >= |d|²``, so a small step along -d raises no term's loss. If not all terms can
    improve, for example because one gradient is 0, d is 0. Solved exactly, by active sets.

    Args:
        shared: see `GradientBalancing`.

    Source:
        Désidéri, 2012, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", and for several
        tasks Sener, Koltun, 2018, "Multi-Task Learning as Multi-Objective Optimization", arXiv:1810.04650. TorchJD's
        iterations agree to 5e-3.

    Example:
        >>> import torch
        >>> MGDA().coefficients(torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64)))
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    def coefficients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        """The weights on the simplex."""
        return shortest_mean(gram)
