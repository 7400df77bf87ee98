"""Linear classifiers of fixed features, to measure what a network has learned: naive Bayes and logistic regression."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.diagnostics.checks import check_labels, check_points
from lightning_losses.numerics.checks import check_count, check_number


class LinearHead(NamedTuple):
    """A linear classifier in float64: the logits of features x are ``x @ weight.T + bias``."""

    weight: Float[Tensor, "classes d"]
    bias: Float[Tensor, " classes"]

    def logits(self, features: Float[Tensor, "samples d"]) -> Float[Tensor, "samples classes"]:
        """The logits of features."""
        return features.double() @ self.weight.T + self.bias

    def hits(self, features: Float[Tensor, "samples d"], target: Int[Tensor, " samples"]) -> Float[Tensor, ""]:
        """The number of samples that it tells right; NaN where a logit is, which has no largest class."""
        logits = self.logits(features)
        return torch.where(logits.isnan().any(), torch.nan, (logits.argmax(dim=1) == target).sum().double())


class ClassMoments(NamedTuple):
    """What is known of the features of each class so far, in float64; 0 for a class without samples.

    Attributes:
        samples: how many there are.
        mean: their mean.
        deviation: the sum of their squared deviations from it.
    """

    samples: Float[Tensor, " classes"]
    mean: Float[Tensor, "classes d"]
    deviation: Float[Tensor, "classes d"]


@torch.no_grad()
def class_moments(features: Float[Tensor, "samples d"], target: Int[Tensor, " samples"], classes: int) -> ClassMoments:
    """The moments of a batch, for `merged_moments` and `gaussian_nb_head`; not all classes need be there, nor samples.

    Args:
        features: [n, d].
        target: [n] class indices.
        classes: how many there are.

    Raises:
        ValueError: shapes that do not fit; targets outside the classes.

    Example:
        >>> moments = class_moments(torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1]), 2)
        >>> moments.mean.flatten().tolist(), moments.deviation.flatten().tolist()
        ([0.0, 2.0], [0.0, 2.0])
    """
    check_count("class_moments", "classes", classes)
    if not (isinstance(features, Tensor) and features.ndim == 2 and len(features) == 0):
        check_points("class_moments", "features", features)
        check_labels("class_moments", features, target, classes)
    x = features.double()
    count = x.new_zeros(classes).index_add(0, target, torch.ones_like(target, dtype=x.dtype))
    zeros = x.new_zeros(classes, x.shape[1])
    mean = zeros.index_add(0, target, x) / count.clamp(min=1).unsqueeze(1)
    return ClassMoments(count, mean, zeros.index_add(0, target, (x - mean[target]).square()))


@torch.no_grad()
def merged_moments(*parts: ClassMoments) -> ClassMoments:
    """The moments of all samples from those of parts: of batches, or of processes.

    ``M = M_a + M_b + δ² n_a n_b / n`` with δ the difference of the means, which loses no digits where a mean is large.

    Raises:
        ValueError: no parts; parts of other shapes.

    Source:
        Chan, Golub, LeVeque, 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".

    Example:
        >>> parts = [class_moments(torch.tensor([[x]]), torch.tensor([0]), 1) for x in (1.0, 3.0)]
        >>> merged_moments(*parts).deviation.item()
        2.0
    """
    shapes = {tuple(part.mean.shape) for part in parts}
    if len(shapes) != 1:
        came = ", ".join(str(list(shape)) for shape in sorted(shapes)) or "none"
        raise ValueError(f"merged_moments: moments of shapes {came} came; give those of the same classes and features.")
    whole = parts[0]
    for part in parts[1:]:
        count = whole.samples + part.samples
        share = (part.samples / count.clamp(min=1)).unsqueeze(1)
        apart = part.mean - whole.mean
        between = apart.square() * share * whole.samples.unsqueeze(1)
        whole = ClassMoments(count, whole.mean + apart * share, whole.deviation + part.deviation + between)
    return whole


@torch.no_grad()
def gaussian_nb_head(moments: ClassMoments, *, epsilon: float = 1e-9) -> LinearHead:
    """Naive Bayes with one diagonal Gaussian a class and variances that all classes share, as a linear classifier.

    The largest logit is that of ``argmax_k log π_k - ½ Σ_d (x_d - μ_kd)² / v_d``, π being the classes' shares of the
    samples and v the mean within-class variance, weighted by them. Nothing is trained. Where that is how the
    features lie, it is more accurate than logistic regression; less so where they are correlated and samples many. A
    class without samples is never predicted.

    Args:
        moments: of the training features: `class_moments`, of several batches by `merged_moments`.
        epsilon: added to each variance, above 0.

    Raises:
        ValueError: no samples at all; an epsilon of 0 or less.

    Source:
        Zheng, Wu, Bao, Cao, Li, Zhu, 2023, "Revisiting Discriminative vs. Generative Classifiers: Theory and
        Implications", arXiv:2302.02334, and its code ML-GSAI/Revisiting-Dis-vs-Gen-Classifiers, which adds epsilon once
        more with every batch.

    Example:
        >>> features, target = torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1])
        >>> head = gaussian_nb_head(class_moments(features, target, 2))
        >>> head.logits(torch.tensor([[2.9], [3.1]])).argmax(dim=1).tolist()
        [0, 1]
    """
    check_number("gaussian_nb_head", "epsilon", epsilon, above=0)
    samples = moments.samples.sum()
    if not bool(samples > 0):
        raise ValueError("gaussian_nb_head: the moments of no sample came; give those of training features.")
    share = moments.samples / samples
    variance = moments.deviation.sum(dim=0) / samples + epsilon
    # Distances from the centre of all: a common offset of the features costs no digits.
    centre = share @ moments.mean
    present = moments.samples > 0
    away = (moments.mean - centre) * present.unsqueeze(1)
    weight = away / variance
    return LinearHead(weight, share.log() - (away * weight).sum(dim=1) / 2 - weight @ centre)


def logistic_head(
    features: Float[Tensor, "samples d"],
    target: Int[Tensor, " samples"],
    classes: int,
    *,
    decay: float = 1e-3,
    steps: int = 100,
) -> LinearHead:
    """Multinomial logistic regression of standardised features: the usual linear evaluation.

    ``mean CE + decay / 2 |W|²``, minimised by L-BFGS from 0 in float64, so that the same features give the same head.

    Args:
        features: [n, d].
        target: [n] class indices.
        classes: how many there are.
        decay: at least 0.
        steps: the most iterations, at least 1.

    Raises:
        ValueError: shapes that do not fit; targets outside the classes; numbers out of range.

    Example:
        >>> features, target = torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1])
        >>> logistic_head(features, target, 2).logits(torch.tensor([[2.9], [3.1]])).argmax(dim=1).tolist()
        [0, 1]
    """
    check_points("logistic_head", "features", features)
    check_count("logistic_head", "classes", classes)
    check_labels("logistic_head", features, target, classes)
    check_number("logistic_head", "decay", decay, least=0)
    check_count("logistic_head", "steps", steps)
    x = features.detach().double()
    mean, spread = x.mean(dim=0), x.std(dim=0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    x = (x - mean) / spread
    weight, bias = x.new_zeros(classes, x.shape[1], requires_grad=True), x.new_zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Any:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weight.T + bias, target) + decay / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    fitted = weight.detach() / spread
    return LinearHead(fitted, bias.detach() - fitted @ mean)
