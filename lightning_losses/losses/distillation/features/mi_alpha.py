"""MI-α: a lower bound of the information that student's and teacher's features share is raised."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_choice, check_count, check_floating, check_number
from lightning_losses.numerics.probabilities import full_precision, log_mixture

Marginal = Literal["all", "others"]


def mi_alpha_loss(
    scores: Float[Tensor, "batch batch"],
    log_baseline: Float[Tensor, " batch"],
    *,
    alpha: float = 0.5,
    marginal: Marginal = "all",
) -> Float[Tensor, ""]:
    """Minus the interpolated bound, given scores [i, j] of student i with teacher j and log q_j; see `MIAlpha`."""
    check_number("mi_alpha", "alpha", alpha, least=0, most=1)
    check_choice("mi_alpha", "marginal", marginal, Marginal)
    size = len(scores)
    if scores.shape != (size, size) or log_baseline.shape != (size,):
        raise ValueError(
            f"mi_alpha: scores of shape {list(scores.shape)} and log_baseline of shape {list(log_baseline.shape)} "
            "came; give [B, B] and [B]."
        )
    scores, log_q = full_precision(scores), full_precision(log_baseline)
    if size == 0 or (size == 1 and marginal == "others"):
        return scores.sum() * 0.0 + log_q.sum() * 0.0
    log_mean = torch.logsumexp(scores, dim=0) - math.log(size)
    log_normaliser = log_mixture(log_mean, log_q.to(scores.dtype), alpha)
    joint = (scores.diagonal() - log_normaliser).mean()
    weighed, pairs = scores - log_normaliser, size * size
    if marginal == "others":
        weighed = weighed.masked_fill(torch.eye(size, dtype=torch.bool, device=scores.device), -torch.inf)
        pairs -= size
    product = (torch.logsumexp(weighed.flatten(), dim=0) - math.log(pairs)).exp()
    return product - joint - 1


class MIAlpha(Loss):
    """MI-α: a lower bound of the information that student's and teacher's features share is raised.

    ``-(1 + mean_i [f_ii - log n_i] - mean_ij exp(f_ij) / n_j)`` with ``n_j = α mean_i exp(f_ij) + (1 - α) q_j``. The
    critic ``f_ij = a_i · b_j / sqrt(d)`` scores linear embeddings of student i and teacher j, and log q is a linear
    function of the teacher's feature; the loss owns all three, and they train and are saved with it. With α = 1 and all
    pairs it is InfoNCE, which can show no more than log B; with α = 0 the bound of Nguyen, Wainwright and Jordan, which
    can show more but varies more.

    Args:
        alpha: α, from 0 to 1.
        marginal: the pairs of the last mean: "all", or the "others" alone, with i ≠ j.
        embedding_dim: d, at least 1.
        feature_dim: D; None takes it from the first batch.
        teacher_dim: D'; None takes it from the first batch.

    Shapes:
        features: [B, D]; teacher_features: [B, D'].

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        After He, Shi, Mueller, Zha, Li, Karypis, 2021, "Distiller: A Systematic Study of Model Distillation Methods in
        Natural Language Processing", arXiv:2109.11105, with the bound of Poole, Ozair, van den Oord, Alemi, Tucker,
        2019, arXiv:1905.06922; critic and baseline are this library's choice.

    Example:
        >>> scores = torch.full((4, 4), -50.0).fill_diagonal_(50.0)
        >>> round(mi_alpha_loss(scores, torch.zeros(4), alpha=1.0).item(), 4)  # -log 4
        -1.3863
    """

    batch_coupled = True
    status = "experimental"
    evidence = "no golden values: critic and baseline are this library's; the definition in its tests"

    def __init__(
        self,
        alpha: float = 0.5,
        marginal: Marginal = "all",
        embedding_dim: int = 128,
        feature_dim: int | None = None,
        teacher_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_number("mi_alpha", "alpha", alpha, least=0, most=1)
        check_choice("mi_alpha", "marginal", marginal, Marginal)
        check_count("mi_alpha", "embedding_dim", embedding_dim)
        self.alpha = alpha
        self.marginal: Marginal = marginal
        self.embedding_dim = embedding_dim
        self.student_embedding = _linear(feature_dim, embedding_dim)
        self.teacher_embedding = _linear(teacher_dim, embedding_dim + 1)

    def forward(
        self, features: Float[Tensor, "batch dim"], teacher_features: Float[Tensor, "batch teacher_dim"]
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        for name, tensor in (("features", features), ("teacher_features", teacher_features)):
            check_floating("mi_alpha", name, tensor)
            if tensor.ndim != 2 or len(tensor) != len(features):
                raise ValueError(
                    f"mi_alpha: {name} of shape {list(tensor.shape)} came; give vectors [B, D], of the same samples "
                    "for both."
                )
        student = self.student_embedding(features.to(self.student_embedding.weight.dtype))
        teacher = self.teacher_embedding(teacher_features.detach().to(self.teacher_embedding.weight.dtype))
        # The last output is the logarithm of the baseline.
        with torch.autocast(features.device.type, enabled=False):
            scores = full_precision(student) @ full_precision(teacher[:, :-1]).mT / math.sqrt(self.embedding_dim)
        return mi_alpha_loss(scores, teacher[:, -1], alpha=self.alpha, marginal=self.marginal)


def _linear(dim: int | None, embedding_dim: int) -> nn.Linear:
    return nn.LazyLinear(embedding_dim) if dim is None else nn.Linear(dim, embedding_dim)
