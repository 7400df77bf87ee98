"""AuxK: the latents of a sparse autoencoder that no sample uses learn what the others leave unexplained."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating, check_tensor
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Weight
from lightning_losses.numerics.vectors import refuse_powers


class SAEAuxK(Loss):
    """AuxK: the latents of a sparse autoencoder that no sample uses learn what the others leave unexplained.

    ``c mean |e - d|² / mean |x - mean x|²`` with ``e = x - x̂``, a constant, and d what the strongest dead latents make
    of the sample; 0 where none is dead. A latent that a sparse activation never keeps has no gradient of its own, and
    would stay dead. `SparseAutoencoder` gives x̂ and d. Batch-coupled by its mean and variance.

    Args:
        coefficient: c, at least 0.

    Shapes:
        features: [B, D], what is reconstructed, a constant; reconstruction: [B, D], a constant here;
        dead_reconstruction: [B, D]; dead: [F] bool.

    Returns:
        A scalar; 0 where all samples are equal.

    Raises:
        ValueError: shapes or dtypes that do not fit; a coefficient below 0; on a CPU and under `debug`, numbers whose
            squares are too large.

    Source:
        Gao, Dupré la Tour, Tillman, Goh, Troll, Radford, Sutskever, Leike, Wu, 2024, "Scaling and evaluating sparse
        autoencoders", arXiv:2406.04093, whose coefficient this is.

    Example:
        >>> features, nothing = torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 1)
        >>> SAEAuxK(coefficient=1.0)(features, nothing, features / 2, torch.tensor([True])).item()
        0.25
        >>> SAEAuxK()(features, nothing, features / 2, torch.tensor([False])).item()
        0.0
    """

    status = "paper"
    evidence = "no golden values: the formula is one line, which its tests write another way"

    batch_coupled = True

    coefficient: Weight = 1 / 32

    def forward(
        self,
        features: Float[Tensor, "batch dim"],
        reconstruction: Float[Tensor, "batch dim"],
        dead_reconstruction: Float[Tensor, "batch dim"],
        dead: Bool[Tensor, " latents"],
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; see the class."""
        given = {"features": features, "reconstruction": reconstruction, "dead_reconstruction": dead_reconstruction}
        for name, tensor in given.items():
            check_floating(self._identifier, name, tensor)
            if tensor.ndim != 2 or tensor.shape != features.shape or tensor.shape[1] == 0:
                raise ValueError(
                    f"{self._identifier}: {name} of shape {list(tensor.shape)} came; give features, reconstruction and "
                    "dead_reconstruction of one shape [B, D]."
                )
        check_tensor(self._identifier, "dead", dead)
        learned = full_precision(dead_reconstruction)
        if len(learned) == 0:
            return learned.sum() * 0.0
        x, made = (full_precision(tensor.detach()).to(learned.dtype) for tensor in (features, reconstruction))
        refuse_powers(self._identifier, 2, features=x, reconstruction=made, dead_reconstruction=learned)
        with torch.autocast(learned.device.type, enabled=False):
            variance = (x - x.mean(dim=0)).square().sum(dim=1).mean()
            nothing = (variance == 0) | ~dead.bool().any()
            left = (x - made - learned).square().sum(dim=1).mean()
            return self.coefficient * (left / variance.masked_fill(nothing, 1.0)).masked_fill(nothing, 0.0)
