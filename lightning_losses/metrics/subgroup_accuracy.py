"""The accuracy of each group of samples, the mean of the classes' own, and how the groups' accuracies go together."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from lightning_losses.numerics.checks import check_choice, check_count


def subgroup_accuracy(
    correct: Bool[Tensor, "*samples"], group: Int[Tensor, "*samples"], num_groups: int
) -> Float[Tensor, " groups"]:
    """The accuracy of each group; NaN for a group without samples.

    Args:
        correct: whether each prediction is right.
        group: 0 to num_groups - 1; samples of a negative group are left out.
        num_groups: at least 1.

    Raises:
        ValueError: shapes that differ; a group out of range.

    Example:
        >>> subgroup_accuracy(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]), 3)
        tensor([0.5000,    nan, 1.0000], dtype=torch.float64)
    """
    right, samples = _counts("subgroup_accuracy", correct, group, num_groups)
    return right / samples


def balanced_accuracy(
    prediction: Int[Tensor, "*samples"], target: Int[Tensor, "*samples"], num_classes: int
) -> Float[Tensor, ""]:
    """The mean of the accuracies of the classes that have samples; NaN without any.

    Args:
        prediction: the predicted classes.
        target: the classes; samples with a negative one are left out.
        num_classes: C.

    Example:
        >>> balanced_accuracy(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 2]), 3).item()
        0.5
    """
    return subgroup_accuracy(right_predictions("balanced_accuracy", prediction, target), target, num_classes).nanmean()


def right_predictions(
    who: str, prediction: Int[Tensor, "*samples"], target: Int[Tensor, "*samples"]
) -> Bool[Tensor, "*samples"]:
    """Which predictions are right; raises ``ValueError`` for another shape, which would be broadcast.

    Example:
        >>> right_predictions("demo", torch.tensor([0, 1]), torch.tensor([0, 2]))
        tensor([ True, False])
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"{who}: predictions of shape {list(prediction.shape)} came with a target of shape {list(target.shape)}; "
            "give a class of each sample for both."
        )
    return prediction == target


class SubgroupAccuracy(Metric):
    """The accuracy of each group, [num_groups]; NaN for a group without samples.

    Right predictions and samples are counted, and added over batches and processes.

    Args:
        num_groups: at least 1.
        **kwargs: as torchmetrics takes them.

    Example:
        >>> metric = SubgroupAccuracy(num_groups=2)
        >>> metric.update(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor([1., 0.], dtype=torch.float64)
    """

    is_differentiable: bool | None = False
    higher_is_better: bool | None = True
    full_state_update: bool | None = False
    right: Tensor
    samples: Tensor

    def __init__(self, num_groups: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("SubgroupAccuracy", "num_groups", num_groups)
        self.num_groups = num_groups
        for name in ("right", "samples"):
            self.add_state(name, torch.zeros(num_groups, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        logits: Float[Tensor, "*samples classes"],
        target: Int[Tensor, "*samples"],
        group: Int[Tensor, "*samples"],
    ) -> None:
        """Add a batch; samples of a negative target, such as -100, or of a negative group are left out."""
        correct = right_predictions("SubgroupAccuracy", logits.argmax(dim=-1), target)
        right, samples = _counts("SubgroupAccuracy", correct, group.masked_fill(target < 0, -1), self.num_groups)
        self.right += right
        self.samples += samples

    def compute(self) -> Tensor:
        """The accuracy of each group."""
        return self.right / self.samples


class AccuracyCurve(NamedTuple):
    """A polynomial that gives one group's accuracy by another's.

    Attributes:
        coefficients: from the constant on.
        r_squared: the share of the variance that it explains; NaN where all accuracies are equal.
    """

    coefficients: tuple[float, ...]
    r_squared: float


def accuracy_curve(
    majority: Float[Tensor, " models"],
    minority: Float[Tensor, " models"],
    degree: int = 2,
    scale: Literal["linear", "probit"] = "linear",
) -> AccuracyCurve:
    """A minority's accuracy as a polynomial of a majority's, by least squares over many models.

    A positive quadratic coefficient, with an R² well above that of degree 1, is the shape of a moon: from some accuracy
    on the minority gains faster than the majority.

    Args:
        majority: the accuracies of one group in [0, 1]; pairs of which one is NaN are left out.
        minority: those of the other, of the same models.
        degree: at least 1.
        scale: "probit" takes the quantiles of a normal distribution in the place of accuracies, within [0.001, 0.999].

    Raises:
        ValueError: shapes that differ; fewer than degree + 1 models.

    Example:
        >>> curve = accuracy_curve(torch.tensor([0.6, 0.7, 0.8, 0.9]), torch.tensor([0.36, 0.49, 0.64, 0.81]))
        >>> [round(number, 3) + 0 for number in (*curve.coefficients, curve.r_squared)]
        [0.0, 0.0, 1.0, 1.0]
    """
    check_choice("accuracy_curve", "scale", scale, ("linear", "probit"))
    check_count("accuracy_curve", "degree", degree)
    if majority.shape != minority.shape or majority.ndim != 1:
        raise ValueError(
            f"accuracy_curve: accuracies of shape {list(majority.shape)} and {list(minority.shape)} came; give two of "
            "[models]."
        )
    known = ~(majority.isnan() | minority.isnan())
    x, y = majority[known].double(), minority[known].double()
    if len(x) <= degree:
        raise ValueError(f"accuracy_curve: {len(x)} models came for degree {degree}; give at least {degree + 1}.")
    if scale == "probit":
        x, y = (torch.special.ndtri(accuracy.clamp(1e-3, 1 - 1e-3)) for accuracy in (x, y))
    powers = torch.stack([x**power for power in range(degree + 1)], dim=1)
    coefficients = torch.linalg.lstsq(powers, y.unsqueeze(1)).solution.squeeze(1)
    left = (y - powers @ coefficients).square().sum()
    whole = (y - y.mean()).square().sum()
    return AccuracyCurve(tuple(coefficients.tolist()), float(1 - left / whole) if whole > 0 else float("nan"))


def _counts(
    who: str, correct: Bool[Tensor, "*samples"], group: Int[Tensor, "*samples"], num_groups: int
) -> tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]:
    if correct.shape != group.shape:
        raise ValueError(
            f"{who}: predictions of shape {list(correct.shape)} came with groups of shape {list(group.shape)}; give "
            "one group for each sample."
        )
    kept = group >= 0
    within = group[kept].flatten()
    if len(within) and int(within.max()) >= num_groups:
        raise ValueError(
            f"{who}: group {int(within.max())} came with num_groups={num_groups}; give 0 to {num_groups - 1}."
        )
    dtype = torch.float32 if group.device.type == "mps" else torch.float64
    counts = torch.zeros(2, num_groups, dtype=dtype, device=group.device)
    counts[0].index_add_(0, within, correct[kept].flatten().to(dtype))
    counts[1].index_add_(0, within, torch.ones_like(within, dtype=dtype))
    return counts[0], counts[1]
