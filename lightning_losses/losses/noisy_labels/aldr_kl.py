"""Adaptive label-distributionally robust loss: each sample learns how much its largest margin violation counts."""

from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.classification.ldr_kl import normalized_scores, robust_violation
from lightning_losses.losses.kinds import index_rows
from lightning_losses.losses.sample_memory import Columns, Given, Kept, RememberingLoss
from lightning_losses.numerics.probabilities import full_precision, probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import Rows, beside_logits, required_target
from lightning_losses.numerics.settings import Bound, Positive, Weight

# Added to probabilities so that their logarithms are finite.
_OFFSET = 1e-5


class ALDRKL(RememberingLoss):
    """Adaptive label-distributionally robust loss: each sample learns how much its largest margin violation counts.

    ``λ_i (log sum_k exp((z_k - z_y + c [k ≠ y]) / λ_i) - log C) - α log C / (2 λ_0) (λ_i - λ_0)²``, where a row's
    scores are divided by their mean size, ``z ← z / (sum_k |z_k| / C)``. λ_i is stored for each sample. It begins at
    λ_0 and takes one step of a fixed-point iteration before each loss of the sample,
    ``λ_i = λ_0 (1 - KL(q || uniform) / (α log C))`` with ``q = softmax(z / λ_i)`` plus 1e-5, normalised. The gradient
    treats λ_i as a constant. A sample with a peaked prediction gets a small λ_i, so that its largest violation decides;
    a sample with an even prediction keeps λ_0.

    Args:
        margin: c, at least 0.
        temperature: λ_0, above 0.
        alpha: α, above 1, so that λ_i stays above 0.
        softplus: take the scores' softplus first.

    Shapes:
        logits: [..., C]; target: [...] class indices; sample_temperature: [...]. A class that is masked by -inf does
        not count among the C.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Source:
        Zhu, Ying, Yang, 2023, "Label Distributionally Robust Losses for Multi-class Classification: Consistency,
        Robustness and Adaptivity", arXiv:2112.14869, and their code, Optimization-AI/ICML2023_LDR (ALDRLoss_V1). As in
        the code, q leaves out the margin that the paper has in it. The code has no softplus by default; with wrong
        labels and λ_0 = 10, a network without it learned many more of them. The code divides a row of zeros by 0; here
        the row is unchanged.

    Example:
        >>> logits, target, begun = torch.tensor([[2.0, 0.0]]), torch.tensor([1]), torch.tensor([10.0])
        >>> round(ALDRKL()(logits, target, begun).item(), 4)
        0.574
    """

    status = "confirmed"
    evidence = "Optimization-AI/ICML2023_LDR"
    remembers = "sample_temperature"

    margin: Weight = 0.1
    temperature: Positive = 10.0
    alpha: Annotated[float, Bound(above=1)] = 2.0
    softplus: bool = True

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Int[Tensor, "*rows"],
        sample_temperature: Float[Tensor, "*rows"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        rows = index_rows(self._identifier, logits, target, self.ignore_index)
        before = beside_logits(
            self._identifier, "sample_temperature", sample_temperature, logits.shape[:-1], Rows(rows.logits, None, None)
        )
        scores = self._scores(rows.logits)
        temperature = self.next_temperature(scores.detach(), before)
        robust = robust_violation(scores, required_target(self._identifier, rows.target), self.margin, temperature)
        price = self.alpha * _log_classes(scores) / (2 * self.temperature) * (temperature - self.temperature) ** 2
        return reduce(robust - price, self.reduction, rows.kept)

    def next_temperature(
        self, scores: Float[Tensor, "*rows classes"], before: Float[Tensor, "*rows"]
    ) -> Float[Tensor, "*rows"]:
        """λ_i after one step of its iteration."""
        q = (probabilities(scores / before.unsqueeze(-1)) + _OFFSET).masked_fill(torch.isneginf(scores), 0.0)
        q = q / q.sum(dim=-1, keepdim=True)
        # The divergence from uniform probabilities is the logarithm of their number less the entropy.
        entropy = -torch.xlogy(q, q).sum(dim=-1)
        return self.temperature * (1 - (1 - entropy / _log_classes(scores)) / self.alpha)

    def fresh(self, given: Given) -> Columns:
        """λ_0."""
        logits = full_precision(given["logits"])
        return {"sample_temperature": logits.new_full(logits.shape[1:-1], self.temperature)}

    def remember(self, kept: Kept, given: Given) -> Columns:
        """λ_i after this step."""
        scores = self._scores(full_precision(given["logits"].detach()))
        return {"sample_temperature": self.next_temperature(scores, kept("sample_temperature").to(scores))}

    def _scores(self, logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        return normalized_scores(logits, "softplus_mean" if self.softplus else "l1_mean")


def _log_classes(scores: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows"]:
    """The logarithm of the number of classes that are not masked, of two at least."""
    return (~torch.isneginf(scores)).sum(dim=-1).clamp(min=2).to(scores.dtype).log()
