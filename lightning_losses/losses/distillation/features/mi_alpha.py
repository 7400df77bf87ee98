"""MI-α: raises a lower bound of the mutual information of the student's and the teacher's features."""

import math
from dataclasses import field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.losses.distillation.features.embedding import embedded, linear_embedding
from lightning_losses.numerics.checks import check_vectors
from lightning_losses.numerics.probabilities import full_precision, log_mixture
from lightning_losses.numerics.settings import Count, Share


class MIAlpha(Loss):
    """MI-α: raises a lower bound of the mutual information of the student's and the teacher's features.

    ``-(1 + mean_i [f_ii - log n_i] - mean_ij exp(f_ij) / n_j)`` with ``n_j = α mean_i exp(f_ij) + (1 - α) q_j``. The
    critic ``f_ij = a_i · b_j / sqrt(d)`` scores linear embeddings of student i and teacher j, and log q is a linear
    function of the teacher's feature; all three belong to the loss, and are trained and saved with it. With α = 1 and
    all pairs it is InfoNCE, which is at most log B; with α = 0 it is the bound of Nguyen, Wainwright and Jordan, which
    can be larger but varies more.

    Args:
        alpha: α, from 0 to 1.
        marginal: the pairs of the last mean: "all", or "others", those with i ≠ j.
        embedding_dim: d, at least 1.
        feature_dim: D, at least 1; None takes it from the first batch.
        teacher_dim: D', at least 1; None takes it from the first batch.

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
        >>> round(MIAlpha(alpha=1.0).bound(scores, torch.zeros(4)).item(), 4)  # log 4
        1.3863
    """

    batch_coupled = True
    status = "experimental"
    evidence = "no golden values: critic and baseline are this library's; the definition in its tests"

    alpha: Share = 0.5
    marginal: Literal["all", "others"] = "all"
    embedding_dim: Count = 128
    feature_dim: Count | None = None
    teacher_dim: Count | None = None
    student_embedding: nn.Linear = field(init=False)
    teacher_embedding: nn.Linear = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.student_embedding = linear_embedding(self.feature_dim, self.embedding_dim)
        # The last output is the logarithm of the baseline.
        self.teacher_embedding = linear_embedding(self.teacher_dim, self.embedding_dim + 1)

    def forward(
        self, features: Float[Tensor, "batch dim"], teacher_features: Float[Tensor, "batch teacher_dim"]
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        check_vectors(self._identifier, features, teacher_features)
        student = embedded(self._identifier, "features", features, self.student_embedding)
        teacher = embedded(self._identifier, "teacher_features", teacher_features.detach(), self.teacher_embedding)
        with torch.autocast(features.device.type, enabled=False):
            scores = full_precision(student) @ full_precision(teacher[:, :-1]).mT / math.sqrt(self.embedding_dim)
        return -self.bound(scores, full_precision(teacher[:, -1]))

    def bound(self, scores: Float[Tensor, "batch batch"], log_baseline: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The bound, given the scores [i, j] of student i with teacher j, and log q_j."""
        size = len(scores)
        if size == 0 or (size == 1 and self.marginal == "others"):
            return scores.sum() * 0.0 + log_baseline.sum() * 0.0
        log_mean = torch.logsumexp(scores, dim=0) - math.log(size)
        log_normaliser = log_mixture(log_mean, log_baseline.to(scores.dtype), self.alpha)
        joint = (scores.diagonal() - log_normaliser).mean()
        weighed, pairs = scores - log_normaliser, size * size
        if self.marginal == "others":
            weighed = weighed.masked_fill(torch.eye(size, dtype=torch.bool, device=scores.device), -torch.inf)
            pairs -= size
        product = (torch.logsumexp(weighed.flatten(), dim=0) - math.log(pairs)).exp()
        return joint - product + 1
