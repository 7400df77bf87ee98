"""Neural collapse: the distance of features and classifier from the simplex at the end of training."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.diagnostics.checks import check_labels, check_points
from lightning_losses.numerics.checks import check_choice

Limit = Literal["simplex", "orthogonal"]


_NAMES = (
    *("nc1", "nc1_per_class", "nc2_equinorm_means", "nc2_equinorm_weights"),
    *("nc2_equiangular_means", "nc2_equiangular_weights", "nc3", "nc4"),
)


@torch.no_grad()
def neural_collapse(
    features: Float[Tensor, "samples d"],
    target: Int[Tensor, " samples"],
    weight: Float[Tensor, "classes d"],
    bias: Float[Tensor, " classes"] | None = None,
    *,
    limit: Limit = "simplex",
    total: Callable[[Tensor], Tensor] = lambda values: values,
) -> dict[str, Tensor]:
    """NC1 to NC4 of features and their linear classifier.

    - ``nc1``: within-class variability ``tr(Σ_W Σ_B⁺)``; 0 if every sample equals its class's mean. ``nc1_per_class``
      is nc1 divided by C, as many papers report it.
    - ``nc2_equinorm_means``, ``..._weights``: the spread of the lengths of the centred class means and of the
      classifier's rows: standard deviation divided by mean.
    - ``nc2_equiangular_means``, ``..._weights``: the mean distance of their cosines from -1 / (C - 1).
    - ``nc3``: the squared distance of the classifier from the class means, both scaled to norm 1; from 0 to 4.
    - ``nc4``: the share of samples that the classifier and the nearest class mean classify differently.

    Computed in float64, without a d by d matrix. The global mean is that of the classes, not of the samples. Classes
    without samples are ignored.

    Args:
        features: [n, d] the inputs of the classifier.
        target: [n] class indices.
        weight: [C, d] the classifier's weight.
        bias: [C] the classifier's bias.
        limit: "simplex" measures NC2 against the simplex; "orthogonal" against orthogonal class means that are not
            centred, the limit of bias-free squared loss, also for imbalanced classes.
        total: a function that sums a tensor over processes with separate samples; by default there is one process.

    Returns:
        Scalars by name, the same on every process. All are NaN if features, weight or bias hold NaN or infinity (except
        a bias of -inf, which masks a class). Single ones are NaN if they are undefined because all class means, or all
        rows of the classifier, are equal.

    Raises:
        ValueError: an unknown limit; shapes that do not fit; targets outside the classes; fewer than two classes with
            samples. Where one process's samples are refused, all raise.

    Source:
        Papyan, Han, Donoho, 2020, "Prevalence of Neural Collapse during the Terminal Phase of Deep Learning
        Training", arXiv:2008.08186, and its authors' notebook. "orthogonal": Dang, Tran, Osher, Tran-The, Ho, Nguyen,
        2023, arXiv:2301.00437.

    Example:
        >>> corners = torch.eye(3) - 1 / 3
        >>> found = neural_collapse(corners.repeat(4, 1), torch.arange(3).repeat(4), corners)
        >>> max(value.item() for value in found.values()) < 1e-12
        True
    """
    check_choice("neural_collapse", "limit", limit, Limit)
    refusal = _refusal(features, target, weight, bias)
    # No process waits for the sums of another that has refused its samples.
    if bool(total(torch.tensor(float(refusal is not None), device=getattr(weight, "device", None))) > 0):
        raise ValueError(refusal or "neural_collapse: another process refused its samples, and says why.")
    h, w, target = features.double(), weight.double(), target.long()
    classes = len(w)
    counts = total(torch.zeros(classes, dtype=h.dtype, device=h.device).index_add(0, target, torch.ones_like(h[:, 0])))
    sums = total(torch.zeros(classes, h.shape[1], dtype=h.dtype, device=h.device).index_add(0, target, h))
    present = counts > 0
    number = int(present.sum())
    if number < 2:
        raise ValueError(f"neural_collapse: {number} classes have samples; give at least 2.")
    means = sums / counts.clamp(min=1).unsqueeze(1)
    samples = counts.sum()
    broken = (~h.isfinite()).sum() + (~w.isfinite()).sum()
    if bias is not None:
        # Minus infinity masks a class.
        broken = broken + (~(bias < torch.inf)).sum()
    if bool(total(broken.double()) > 0):
        return dict.fromkeys(_NAMES, h.new_tensor(torch.nan))
    centre = means[present].mean(dim=0)
    centred = means[present] - centre
    rows = w[present]

    directions, sizes, _ = torch.linalg.svd(centred.T, full_matrices=False)
    kept = (sizes > 1e-10 * sizes[0]) & (torch.arange(len(sizes), device=h.device) < number - 1)
    within = total(((h - means[target]) @ directions[:, kept]).square().sum(dim=0)) / samples
    # Equal class means have no between-class variability.
    nc1 = (number / sizes[kept].square() * within).sum() if bool(kept.any()) else h.new_tensor(torch.nan)

    logits = h @ w.T if bias is None else h @ w.T + bias.double()
    distances = torch.cdist(h, means).masked_fill(~present, torch.inf)
    differing = total((distances.argmin(dim=1) != logits.argmax(dim=1)).double().sum()) / samples

    directions_of = centred if limit == "simplex" else means[present]
    cosine = -1 / (number - 1) if limit == "simplex" else 0.0
    return {
        "nc1": nc1,
        "nc1_per_class": nc1 / number,
        "nc2_equinorm_means": _spread(directions_of),
        "nc2_equinorm_weights": _spread(rows),
        "nc2_equiangular_means": _angles(directions_of, cosine),
        "nc2_equiangular_weights": _angles(rows, cosine),
        "nc3": (_unit(rows) - _unit(centred)).square().sum(),
        "nc4": differing,
    }


def _refusal(features: Tensor, target: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """What is wrong with a process's samples, or with the classifier; None where all fits."""
    try:
        check_points("neural_collapse", "weight", weight)
        # One of several processes may have no samples.
        if len(features) > 0:
            check_points("neural_collapse", "features", features)
            check_labels("neural_collapse", features, target, len(weight))
    except ValueError as error:
        return str(error)
    if weight.shape[1] != features.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        return (
            f"neural_collapse: a weight of shape {list(weight.shape)} and a bias of shape "
            f"{None if bias is None else list(bias.shape)} came with features of shape {list(features.shape)}; give "
            "the classifier that takes them."
        )
    return None


def _spread(vectors: Tensor) -> Tensor:
    norms = vectors.norm(dim=1)
    return norms.std() / norms.mean()


def _angles(vectors: Tensor, cosine: float) -> Tensor:
    lengths = vectors.norm(dim=1, keepdim=True)
    # Vectors that are all 0 have no angles.
    unit = vectors / torch.where(lengths.any() & (lengths == 0), 1.0, lengths)
    off = (unit @ unit.T - cosine).abs()
    off.fill_diagonal_(0)
    return off.sum() / (len(vectors) * (len(vectors) - 1))


def _unit(matrix: Tensor) -> Tensor:
    # NaN where all is 0.
    return matrix / matrix.norm()
