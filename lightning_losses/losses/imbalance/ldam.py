"""LDAM: cross-entropy of cosines with a margin for the target, the larger the rarer its class is."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.class_prior import ClassCounts, ClassPrior, Smoothing
from lightning_losses.losses.cosines import warn_of_no_cosines
from lightning_losses.losses.imbalance.class_balanced import EffectiveShare, effective_number_weights
from lightning_losses.losses.kinds import ClassificationRows, ClassWeightedLoss
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import one_hot, pick
from lightning_losses.numerics.settings import NonNegative, Positive


class LDAM(ClassWeightedLoss):
    """Label-distribution-aware margins: cross-entropy of cosines with a margin for the target, larger for rare classes.

    ``-log softmax(s (z - m_y e_y))_y`` with ``m_c = m (min_k n_k / n_c)^(1/4)`` from the class counts n: the rarest
    class gets the whole margin m. The logits z are to be cosines, as a `MarginHead` gives them; for other logits the
    margins mean little, and a warning says so once, on a CPU. With β above 0 the classes are weighted as in
    `ClassBalanced`, and `DeferredReweighting` lets the weights begin at a later epoch (the authors' DRW).

    Args:
        class_counts: n, a number of training samples for each class; None where `ClassCounts` counts them.
        max_margin: m, at least 0; 0 is cross-entropy of the scaled logits.
        scale: s, above 0.
        beta: of the effective number of samples, at least 0 and below 1; 0 for no weights.
        smoothing: "clamp" counts a class without samples as 1, "add_one" adds 1 to every count.

    Shapes:
        logits: [..., C] cosines; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction. With weights and reduction "mean" it is divided by those of the kept
        samples' classes, as in torch.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; no class counts, or those of another
            number of classes; options out of range.

    Warns:
        UserWarning: logits that are no cosines.

    Source:
        Cao, Wei, Gaidon, Arechiga, Ma, 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        arXiv:1906.07413, and its code, kaidic/LDAM-DRW, with its m and s; its β is 0.9999, from epoch 160 of 200.

    Example:
        >>> loss = LDAM(class_counts=[16, 1], scale=1.0)
        >>> loss.margins(2).tolist()
        [0.25, 0.5]
        >>> round(loss(torch.zeros(1, 2), torch.tensor([1])).item(), 4)
        0.9741
    """

    status = "confirmed"
    evidence = "kaidic/LDAM-DRW"
    soft_targets = False
    takes_cosines = True

    class_counts: ClassCounts | None = None
    max_margin: NonNegative = 0.5
    scale: Positive = 30.0
    beta: EffectiveShare = 0.0
    smoothing: Smoothing = "clamp"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prior = ClassPrior(self._identifier, self.class_counts, self.smoothing)

    def margins(self, classes: int) -> Float[Tensor, " classes"]:
        """The margin of each class."""
        counts = self.prior.smoothed(classes)
        return self.max_margin * (counts.amin() / counts) ** 0.25

    @property
    def weighs_classes(self) -> bool:
        """Whether there is a β."""
        return self.beta > 0

    def class_weights(self, classes: int) -> Float[Tensor, " classes"] | None:
        """The weight of each class, with a mean of 1; None without β."""
        if not (self.weighs_classes and self.reweights):
            return None
        return effective_number_weights(self.prior.smoothed(classes), self.beta)

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        warn_of_no_cosines(self, given.logits)
        classes = given.logits.shape[-1]
        margin = self.margins(classes).to(given.logits)[given.target]
        own = one_hot(given.target, given.logits)
        scaled = self.scale * (given.logits - own * margin.unsqueeze(-1))
        value = -pick(log_probabilities(scaled), given.target)
        weight = self.class_weights(classes)
        return value if weight is None else weight.to(value)[given.target] * value
