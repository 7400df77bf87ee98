"""Cross-entropy with label smoothing, soft targets and class weights."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationRows, ClassWeightedLoss
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import known_finite, log_probabilities
from lightning_losses.numerics.settings import Share


class CrossEntropy(ClassWeightedLoss):
    """Cross-entropy with label smoothing, soft targets and class weights.

    ``-sum_k q_k log softmax(logits)_k`` with ``q`` the one-hot (or given) target, smoothed to
    ``(1 - ε) q + ε / C`` over the C classes that are not masked by -inf.

    Args:
        class_weight: C finite weights of the classes, at least 0; with class indices the mean is weighted by them, as
            in torch.
        label_smoothing: ε, in [0, 1].

    Shapes:
        logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction. Infinite if the target has a masked class. If every sample is ignored it
        is 0 (torch gives NaN).

    Raises:
        ValueError: shapes or dtypes that do not fit; a class weight below 0; label_smoothing outside [0, 1].

    Source:
        Wraps `torch.nn.functional.cross_entropy`. With masked classes torch's own is infinite under label smoothing,
        and NaN for targets of probabilities; this one is finite. Label smoothing: Szegedy et al., 2016, "Rethinking the
        Inception Architecture for Computer Vision", arXiv:1512.00567.

    Example:
        >>> round(CrossEntropy()(torch.zeros(2, 4), torch.tensor([1, 3])).item(), 4)
        1.3863
    """

    status = "paper"
    evidence = "torch's own; its label smoothing with by-liu/MbLS, not the authors' code"

    class_weight: Sequence[float] | Tensor | None = None
    label_smoothing: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # As exact as the widest logits; narrower ones take them in their own precision.
        weight = None if self.class_weight is None else torch.as_tensor(self.class_weight, dtype=torch.float64)
        if weight is not None and not bool((weight.isfinite() & (weight >= 0)).all()):
            raise ValueError(
                f"{self._identifier}: class_weight={weight.tolist()} came; give finite numbers of at least 0."
            )
        del self.class_weight
        self.register_buffer("class_weight", weight, persistent=False)

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        classes, soft = given.logits.shape[-1], given.target.is_floating_point()
        weight = self.class_weights(classes)
        weight = None if weight is None else weight.to(given.logits)
        if not (soft or self.label_smoothing) or given.logits.device.type == "cpu":
            value = F.cross_entropy(
                given.logits.reshape(-1, classes),
                given.target.reshape(-1, classes) if soft else given.target.reshape(-1),
                weight=weight,
                label_smoothing=self.label_smoothing,
                reduction="none",
            ).reshape(given.logits.shape[:-1])
            if not (soft or self.label_smoothing) or known_finite(value):
                return value
        return self._beside_masked_classes(given, weight)

    def _beside_masked_classes(
        self, given: ClassificationRows, weight: Float[Tensor, " classes"] | None
    ) -> Float[Tensor, "*rows"]:
        """The same; a masked class counts only as far as the target has it."""
        log_p, masked = log_probabilities(given.logits), torch.isneginf(given.logits)
        target, others = given.target, log_p.masked_fill(masked, 0.0)
        if weight is None:
            label = cross_entropy(log_p, target)
        elif target.is_floating_point():
            label, others = cross_entropy(log_p, weight * target), weight * others
        else:
            label, others = weight[target] * cross_entropy(log_p, target), weight * others
        if self.label_smoothing == 0:
            return label
        spread = -others.sum(dim=-1) / (~masked).sum(dim=-1)
        # A weight of 0 times an infinite label term would be NaN.
        share = self.label_smoothing
        return spread if share == 1 else (1 - share) * label + share * spread

    def class_weights(self, classes: int) -> Float[Tensor, " classes"] | None:
        """The weights that were given."""
        if not (self.weighs_classes and self.reweights):
            return None
        # Once built it is a buffer.
        weight = torch.as_tensor(self.class_weight)
        if weight.shape != (classes,):
            raise ValueError(
                f"{self._identifier}: class_weight of shape {list(weight.shape)} came with {classes} classes; "
                f"give shape [{classes}]."
            )
        return weight

    @property
    def weighs_classes(self) -> bool:
        """Whether there are weights."""
        return self.class_weight is not None
