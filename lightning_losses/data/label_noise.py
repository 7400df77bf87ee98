"""Wrong labels for a known share of the samples: symmetric, asymmetric and instance-dependent noise."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_choice, check_number
from lightning_losses.numerics.rows import check_classes

NoiseKind = Literal["symmetric", "asymmetric", "instance"]


def with_label_noise(
    target: Int[Tensor, " samples"],
    num_classes: int,
    *,
    share: float,
    seed: int,
    kind: NoiseKind = "symmetric",
    features: Float[Tensor, "samples ..."] | None = None,
) -> Int[Tensor, " samples"]:
    """Labels of which a share, within one sample, is replaced by another class.

    The samples are drawn at random from those that have a label; the target -100 stays. The other class of a sample of
    class y is

    - "symmetric": any, each with equal probability;
    - "asymmetric": the next, ``y + 1 mod C``;
    - "instance": drawn from ``softmax(x W_y)`` without class y. x are the sample's features; the entries of W, a matrix
      for each class, are standard normal. So similar samples tend to get the same wrong label.

    The source of "instance" draws a flip rate for each sample, independently of its features, and flips the sample with
    that probability: a random subset too, of a random size.

    Args:
        target: [n] class indices, or -100 for samples without a label.
        num_classes: C, at least 2.
        share: the share of samples with another label, in [0, 1].
        seed: the same seed gives the same labels.
        kind: "symmetric", "asymmetric" or "instance".
        features: [n, ...] the samples; needed for "instance" alone.

    Raises:
        ValueError: labels, or settings, out of range; instance-dependent noise without features of each sample.

    Source:
        Instance-dependent noise: Xia et al., 2020, "Part-dependent Label Noise: Towards Instance-dependent Label
        Noise", arXiv:2006.07836, Algorithm 2.

    Example:
        >>> target = torch.zeros(10, dtype=torch.long)
        >>> int((with_label_noise(target, 3, share=0.3, seed=0) != target).sum())
        3
    """
    check_number("with_label_noise", "share", share, least=0, most=1)
    check_number("with_label_noise", "num_classes", num_classes, least=2)
    check_choice("with_label_noise", "kind", kind, NoiseKind)
    labelled = check_classes("with_label_noise", target, num_classes)
    if kind == "instance" and (features is None or len(features) != len(target)):
        came = "no features" if features is None else f"features of {len(features)} samples"
        raise ValueError(
            f"with_label_noise: {came} came for {len(target)} labels; instance-dependent noise needs the features of "
            "each sample."
        )
    # numpy guarantees RandomState's stream forever; a Generator's may change between versions.
    random = np.random.RandomState(seed)
    order = torch.from_numpy(random.permutation(len(target)))
    order = order[labelled[order]]
    chosen = order[: round(share * len(order))]
    noisy = target.clone()
    if kind == "asymmetric":
        noisy[chosen] = (target[chosen] + 1) % num_classes
    elif kind == "symmetric":
        shift = torch.from_numpy(random.randint(1, num_classes, size=len(chosen)))
        noisy[chosen] = (target[chosen] + shift) % num_classes
    else:
        assert features is not None
        noisy[chosen] = _likely_others(features.flatten(1)[chosen], target[chosen], num_classes, random)
    return noisy


def transition_matrix(
    true_target: Int[Tensor, " samples"], target: Int[Tensor, " samples"], num_classes: int
) -> Float[Tensor, "classes classes"]:
    """The share of the samples of each true class (row) that have each label (column).

    Samples with a negative label, such as -100, are left out. The row of a class without samples is NaN.

    Raises:
        ValueError: classes of C or more.

    Example:
        >>> transition_matrix(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, -100]), 2)
        tensor([[0.5000, 0.5000],
                [0.0000, 1.0000]], dtype=torch.float64)
    """
    labelled = target >= 0
    for name, classes in (("true_target", true_target), ("target", target)):
        check_classes("transition_matrix", classes[labelled], num_classes, name=name)
    pairs = true_target[labelled] * num_classes + target[labelled]
    counts = torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).double()
    return counts / counts.sum(dim=1, keepdim=True)


def _likely_others(
    features: Float[Tensor, "samples width"],
    target: Int[Tensor, " samples"],
    num_classes: int,
    random: np.random.RandomState,
) -> Int[Tensor, " samples"]:
    """Another class for each sample, drawn from the softmax of its features times the matrix of its class."""
    weights = random.standard_normal((num_classes, features.shape[1], num_classes))
    rows, label = features.double().numpy(), target.numpy()
    scores = np.empty((len(rows), num_classes))
    for each in range(num_classes):
        scores[label == each] = rows[label == each] @ weights[each]
    scores[np.arange(len(rows)), label] = -np.inf
    # The largest sum of a score and a Gumbel number is a draw from the softmax of the scores.
    return torch.from_numpy((scores + random.gumbel(size=scores.shape)).argmax(axis=1))
