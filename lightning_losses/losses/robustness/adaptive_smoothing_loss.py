"""The loss of a gate that mixes two classifiers: which one to believe, and the mixture's own cross-entropy."""

from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss, index_rows
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision, log_probabilities, softplus
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import Weight


class AdaptiveSmoothingLoss(RowLoss):
    """The loss of a gate that mixes two classifiers: which one to believe, and the mixture's own cross-entropy.

    ``a BCE(γ, t) + b CE + c BCE(γ, t) CE``: BCE is the binary cross-entropy of the gate's share of the second
    classifier, sigmoid(γ), t whether that one is to be believed, and CE the cross-entropy of the mixture. The product
    weighs the gate's mistakes by what they cost. `AdaptiveSmoothingClassifier` makes the tensors.

    Args:
        gate_weight: a, at least 0.
        mixture_weight: b, at least 0.
        product_weight: c, at least 0. The defaults are those of the authors for CIFAR-10; for CIFAR-100 they have
            1.5, 0 and 0.2.

    Shapes:
        logits: [..., C] of the mixture; target: [...] class indices; gate_score: [...] γ; gate_target: [...] t, in
            [0, 1].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; weights below 0.

    Source:
        Bai, Anderson, Kim, Sojoudi, 2023, "Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive
        Smoothing", arXiv:2301.12554, and their code, Bai-YT/AdaptiveSmoothing.

    Example:
        >>> import torch
        >>> loss = AdaptiveSmoothingLoss(gate_weight=1.0, mixture_weight=0.0, product_weight=0.0)
        >>> logits, target = torch.zeros(1, 3), torch.tensor([1])
        >>> round(loss(logits, target, torch.tensor([2.0]), torch.tensor([1.0])).item(), 4)
        0.1269
    """

    status = "confirmed"
    evidence = "Bai-YT/AdaptiveSmoothing"

    gate_weight: Weight = 1.0
    mixture_weight: Weight = 0.5
    product_weight: Weight = 0.1

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Int[Tensor, "*rows"],
        gate_score: Float[Tensor, "*rows"],
        gate_target: Float[Tensor, "*rows"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        rows = index_rows(self._identifier, logits, target, self.ignore_index)
        for name, given in (("gate_score", gate_score), ("gate_target", gate_target)):
            check_floating(self._identifier, name, given)
            if given.shape != rows.target.shape:
                raise ValueError(
                    f"{self._identifier}: {name} of shape {list(given.shape)} came with a target of shape "
                    f"{list(rows.target.shape)}; give one number for each row."
                )
        gate, believed = (full_precision(given).to(rows.logits.dtype) for given in (gate_score, gate_target.detach()))
        if rows.kept is not None:
            gate, believed = (given.masked_fill(~rows.kept, 0.0) for given in (gate, believed))
        of_gate = softplus(gate) - believed * gate
        of_mixture = -pick(log_probabilities(rows.logits), rows.target)
        values = self.gate_weight * of_gate + (self.mixture_weight + self.product_weight * of_gate) * of_mixture
        return reduce(values, self.reduction, rows.kept)
