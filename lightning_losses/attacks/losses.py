"""What attacks climb: a value for each row, by its logits, its class and the logits of the unattacked input.

An attack follows signs and unit vectors alone, which any increasing function of a loss has in common with it. So in
place of a loss that is flat where a softmax is saturated, its logarithm is climbed.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lightning_losses.numerics.probabilities import finite_logarithms, log_probabilities
from lightning_losses.numerics.rows import pick, without_class

AttackLossName = Literal[
    "cross_entropy", "probability_margin", "logit_margin", "dlr", "kl_divergence", "margin_vector_norm"
]
LossRows = Callable[
    [Float[Tensor, "rows classes"], Int[Tensor, " rows"], Float[Tensor, "rows classes"]], Float[Tensor, " rows"]
]


class AttackLoss(NamedTuple):
    """A loss that attacks maximise.

    Attributes:
        rows: the loss, or an increasing function of it: from logits [rows, C], class indices [rows] and unattacked
            logits [rows, C] to values [rows].
        compares: whether it measures the distance from the unattacked logits, so that it has no gradient there.
        least_classes: the fewest classes that it is defined for.
    """

    rows: LossRows
    compares: bool = False
    least_classes: int = 2


class Rivals(NamedTuple):
    """A class against the others.

    Attributes:
        log_odds: ``log(1 - p_y) - log p_y``.
        strongest: the largest probability among the others, given that it is one of them.
    """

    log_odds: Float[Tensor, " rows"]
    strongest: Float[Tensor, " rows"]


def rivals(logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"]) -> Rivals:
    """The odds against each row's class, and the share that the strongest other class has of them.

    Example:
        >>> odds, strongest = rivals(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([0]))
        >>> odds.exp().item(), strongest.item()
        (2.0, 0.5)
    """
    others = without_class(logits, target)
    log_odds = torch.logsumexp(others, dim=-1) - pick(logits, target)
    return Rivals(log_odds, torch.softmax(others, dim=-1).amax(dim=-1))


def odds_against(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"], clean_logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """``log((1 - p_y) / p_y)``, which rises with the cross-entropy, ``log(1 + exp(.))`` of it, and is nowhere flat.

    Example:
        >>> z = torch.tensor([[1000.0, 0.0]])
        >>> odds_against(z, torch.tensor([0]), z)
        tensor([-1000.])
    """
    return torch.logsumexp(without_class(logits, target), dim=-1) - pick(logits, target)


def log_rival_probability(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"], clean_logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """``log max_{j != y} p_j``.

    Example:
        >>> z = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> log_rival_probability(z, torch.tensor([0]), z).exp()
        tensor([0.3000])
    """
    return without_class(log_probabilities(logits), target).amax(dim=-1)


def probability_margin(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"], clean_logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """``max_{j != y} p_j - p_y``, in [-1, 1], above 0 where the row is misclassified.

    Source:
        Xie, Zheng, Huang, Ye, Ma, 2024, "Towards Million-Scale Adversarial Robustness Evaluation With Stronger
        Individual Attacks", arXiv:2411.15210, and OpenTAI/taiadv.

    Example:
        >>> z = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> probability_margin(z, torch.tensor([2]), z)
        tensor([0.3000])
    """
    log_odds, strongest = rivals(logits, target)
    return torch.sigmoid(log_odds) * (1 + strongest) - 1


def log_probability_margin(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"], clean_logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """``log(1 + probability_margin)``, which has a gradient also where the margin rounds to -1.

    Example:
        >>> z = torch.tensor([[100.0, 0.0]])
        >>> log_probability_margin(z, torch.tensor([0]), z)
        tensor([-99.3069])
    """
    log_odds, strongest = rivals(logits, target)
    return functional.logsigmoid(log_odds) + torch.log1p(strongest)


def logit_margin(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"], clean_logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """``max_{j != y} z_j - z_y``.

    Example:
        >>> z = torch.tensor([[2.0, 5.0, 1.0]])
        >>> logit_margin(z, torch.tensor([0]), z)
        tensor([3.])
    """
    return without_class(logits, target).amax(dim=-1) - pick(logits, target)


def dlr(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"], clean_logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """The difference of logits ratio, ``(max_{j != y} z_j - z_y) / (z_(1) - z_(3))``, which no scale of logits changes.

    ``z_(1) >= z_(2) >= z_(3)`` are the largest logits, of at least three.

    Source:
        Croce, Hein, 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks", arXiv:2003.01690.

    Example:
        >>> z = torch.tensor([[2.0, 5.0, 1.0]])
        >>> dlr(z, torch.tensor([0]), z)
        tensor([0.7500])
    """
    largest = logits.topk(3, dim=-1).values
    return logit_margin(logits, target, clean_logits) / (largest[:, 0] - largest[:, 2] + 1e-12)


def kl_divergence(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"], clean_logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """``KL(p(x) || p(x'))`` of the unattacked probabilities from the attacked ones, which TRADES maximises.

    Source:
        Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, 2019, "Theoretically Principled Trade-off between Robustness and
        Accuracy", arXiv:1901.08573.

    Example:
        >>> kl_divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), torch.tensor([[100.0, 0.0]]))
        tensor([0.6931])
    """
    clean, attacked = (finite_logarithms(log_probabilities(z)) for z in (clean_logits, logits))
    return (clean.exp() * (clean - attacked)).sum(dim=-1)


def margin_vector_norm(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"], clean_logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """``||Δ(x') - Δ(x)||_2``, where ``Δ = (z_y - z_j)_{j != y}`` are the margins over all other classes.

    A class that one of both logits masks by -inf has no part in it, as in `SmoothAdversarialCompSum`.

    Source:
        Mao, Mohri, Zhong, 2023, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications",
        arXiv:2304.07288.

    Example:
        >>> z = torch.tensor([[0.0, 3.0, 4.0]])
        >>> margin_vector_norm(z, torch.tensor([0]), torch.zeros(1, 3))
        tensor([5.])
    """
    # The margin over the class itself is 0 in both. At a distance of 0, torch's gradient of the norm is 0.
    masked = torch.isneginf(logits) | torch.isneginf(clean_logits)
    moved = logits.masked_fill(masked, 0.0) - clean_logits.masked_fill(masked, 0.0)
    margins = (moved - pick(moved, target).unsqueeze(-1)).masked_fill(masked, 0.0)
    return torch.linalg.vector_norm(margins, dim=-1)


ATTACK_LOSSES: dict[str, AttackLoss] = {
    "cross_entropy": AttackLoss(odds_against),
    "probability_margin": AttackLoss(log_probability_margin),
    "logit_margin": AttackLoss(logit_margin),
    "dlr": AttackLoss(dlr, least_classes=3),
    "kl_divergence": AttackLoss(kl_divergence, compares=True),
    "margin_vector_norm": AttackLoss(margin_vector_norm, compares=True),
}
