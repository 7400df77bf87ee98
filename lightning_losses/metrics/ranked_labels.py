"""Scores of rankings of very many labels: precision at k, and the same where rare labels count more."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torchmetrics import Metric

from lightning_losses.numerics.checks import check_count, check_floating, check_number


def precision_at_k(
    scores: Float[Tensor, "samples labels"], multi_hot: Shaped[Tensor, "samples labels"], k: int
) -> Float[Tensor, " samples"]:
    """The share of each sample's k best labels that it has.

    Args:
        scores: [N, L]; among equal scores torch chooses.
        multi_hot: [N, L] above 0 for the labels that a sample has.
        k: at least 1 and at most L.

    Raises:
        ValueError: shapes that do not fit; a k out of its range; NaN scores.

    Example:
        >>> precision_at_k(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1, 0, 1]]), k=2)
        tensor([0.5000], dtype=torch.float64)
    """
    return _of_best(scores, _checked(scores, multi_hot, k).double(), k) / k


def propensity_scored_precision_at_k(
    scores: Float[Tensor, "samples labels"],
    multi_hot: Shaped[Tensor, "samples labels"],
    propensities: Float[Tensor, " labels"],
    k: int,
) -> Float[Tensor, ""]:
    """Precision at k in which a label counts 1 / its propensity, as a share of what the best ranking would get.

    ``sum_n sum_{j in top k} y_nj / p_j`` over the samples n, divided by the same of the ranking of each sample's labels
    from the rarest on. Rare labels, which annotators miss most, count most.

    Args:
        scores: [N, L].
        multi_hot: [N, L] above 0 for the labels that a sample has.
        propensities: [L] p, above 0 and at most 1: `label_propensities` of the training set.
        k: at least 1 and at most L.

    Returns:
        From 0 to 1; NaN if no sample has a label.

    Raises:
        ValueError: shapes that do not fit; numbers out of their range; NaN scores.

    Source:
        Jain, Prabhu, Varma, 2016, "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking and Other
        Missing Label Applications"; its values are those of kunaldahiya/pyxclib.

    Example:
        >>> rare = torch.tensor([1.0, 1.0, 0.1])
        >>> propensity_scored_precision_at_k(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1, 0, 1]]), rare, k=1)
        tensor(0.1000, dtype=torch.float64)
    """
    gained, best = propensity_scored_gains(scores, multi_hot, propensities, k)
    return gained.sum() / best.sum()


def propensity_scored_gains(
    scores: Float[Tensor, "samples labels"],
    multi_hot: Shaped[Tensor, "samples labels"],
    propensities: Float[Tensor, " labels"],
    k: int,
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
    """Of each sample what its k best labels gain, and the most that k labels could: whose sums' ratio is the precision.

    Example:
        >>> propensity_scored_gains(torch.tensor([[3.0, 1.0]]), torch.tensor([[1, 1]]), torch.tensor([1.0, 0.5]), k=1)
        (tensor([1.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    has = _checked(scores, multi_hot, k)
    if propensities.shape != scores.shape[1:] or not bool(((propensities > 0) & (propensities <= 1)).all()):
        raise ValueError(
            f"propensity_scored_precision_at_k: propensities of shape {list(propensities.shape)} came for "
            f"{scores.shape[1]} labels; give a number above 0 and at most 1 for each."
        )
    worth = has / propensities.double()
    return _of_best(scores, worth, k), worth.topk(k, dim=-1).values.sum(dim=-1)


def label_propensities(
    counts: Shaped[Tensor, " labels"], samples: int, *, a: float = 0.55, b: float = 1.5
) -> Float[Tensor, " labels"]:
    """How likely a label that a sample should have was noted: ``1 / (1 + C (n_j + b)^-a)``, lower for rare labels.

    ``C = (log N - 1) (b + 1)^a`` for N training samples of which n_j have label j.

    Args:
        counts: [L] n, at least 0.
        samples: N, at least 3, so that C is above 0.
        a: above 0; its authors take 0.5 for Wikipedia, 0.6 for Amazon and 0.55 otherwise.
        b: above 0; 0.4, 2.6 and 1.5.

    Raises:
        ValueError: numbers out of their range.

    Source:
        As `propensity_scored_precision_at_k`.

    Example:
        >>> [round(p, 3) for p in label_propensities(torch.tensor([0, 10, 1000]), samples=1000).tolist()]
        [0.113, 0.282, 0.821]
    """
    check_number("label_propensities", "samples", samples, least=3)
    check_number("label_propensities", "a", a, above=0)
    check_number("label_propensities", "b", b, above=0)
    if counts.ndim != 1 or not bool((counts >= 0).all()):
        raise ValueError(
            f"label_propensities: counts of shape {list(counts.shape)} came; give a number of at least 0 for each "
            "label."
        )
    scale = (torch.tensor(float(samples), dtype=torch.float64).log() - 1) * (b + 1) ** a
    return 1 / (1 + scale.to(counts.device) * (counts.double() + b) ** -a)


class PrecisionAtK(Metric):
    """`precision_at_k`, its mean over all batches and processes.

    Args:
        k: at least 1.
        **options: see `torchmetrics.Metric`.

    Example:
        >>> metric = PrecisionAtK(k=1)
        >>> metric.update(torch.tensor([[3.0, 2.0], [1.0, 2.0]]), torch.tensor([[1, 0], [1, 0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    samples: Tensor

    def __init__(self, k: int, **options: object) -> None:
        super().__init__(**options)
        check_count("PrecisionAtK", "k", k)
        self.k = k
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, multi_hot: Tensor) -> None:
        """Add a batch."""
        self.total += precision_at_k(scores, multi_hot, self.k).sum()
        self.samples += len(scores)

    def compute(self) -> Tensor:
        """The mean over all samples; NaN of none."""
        return self.total / self.samples


def _checked(scores: Tensor, multi_hot: Tensor, k: int) -> Tensor:
    who = "precision_at_k"
    check_floating(who, "scores", scores)
    check_count(who, "k", k)
    if scores.ndim != 2 or multi_hot.shape != scores.shape or k > scores.shape[1]:
        raise ValueError(
            f"{who}: scores of shape {list(scores.shape)} came with multi_hot of shape {list(multi_hot.shape)} and "
            f"k={k}; give [samples, labels] twice, and a k of at most the number of labels."
        )
    if bool(torch.isnan(scores).any()):
        raise ValueError(f"{who}: scores hold NaN, which has no rank; find the layer that produces it.")
    return multi_hot > 0


def _of_best(scores: Tensor, worth: Tensor, k: int) -> Tensor:
    """What each sample's k best labels are worth."""
    return worth.gather(1, scores.topk(k, dim=-1).indices).sum(dim=-1)
