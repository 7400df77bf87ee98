"""Mann-Whitney loss: every right pair of the batch scores above every wrong one, of whichever query."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_embeddings
from lightning_losses.numerics.derivatives import first_derivatives_only, in_transform
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Count, Temperature


class MWLoss(Loss):
    """Mann-Whitney loss: every right pair of the batch scores above every wrong one, of whichever query.

    ``1/B sum_i 1/K sum_k softplus((s⁻_k - s⁺_i) / τ)`` with ``s⁺_i`` the cosine of query i and its document, and
    ``s⁻_k`` the K cosines of all queries with all other documents, `negatives` among them. Divided by log 2, the value
    is at least the area over the ROC curve of these scores, so one threshold of the score serves all queries. InfoNCE
    doesn't see a number that is added to all scores of a query; this does.

    The B K differences are formed part by part, so that memory is for B + K numbers; with few of them at once, at most
    `pairs_at_once`, second derivatives are given too.

    Args:
        temperature: τ, above 0.
        over_negatives: "mean", whose scale doesn't depend on the batch, or "sum", as the paper's batch form has it.
        pairs_at_once: how many differences are held at once, at least 1.

    Shapes:
        embeddings: [B, D] of queries, not normalised; embeddings_b: [B, D] of their documents; negatives (optional):
        [N, D] of further documents, right for no query.

    Returns:
        A scalar; 0 without a wrong pair.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.
        RuntimeError: second derivatives of more pairs than are held at once.

    Source:
        Sheikholeslami, Hosseini, Bechard, Daruru, Rajeswar, 2025, "Optimizing What Matters: AUC-Driven Learning for
        Robust Neural Retrieval", arXiv:2510.00137, equations 2 to 4, with τ = 0.01.

    Example:
        >>> queries, documents = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> round(MWLoss(temperature=1.0)(queries, documents).item(), 4)  # log(1 + e^-1)
        0.3133
    """

    batch_coupled = True
    status = "paper"
    evidence = "no golden values: the authors published no code; the definition in its tests"

    temperature: Temperature = 0.01
    over_negatives: Literal["mean", "sum"] = "mean"
    pairs_at_once: Count = 2**20

    def forward(
        self,
        embeddings: Float[Tensor, "batch dim"],
        embeddings_b: Float[Tensor, "batch dim"],
        negatives: Float[Tensor, "more dim"] | None = None,
    ) -> Float[Tensor, ""]:
        """Check, score and evaluate; see the class."""
        given = {"embeddings": embeddings, "embeddings_b": embeddings_b}
        given |= {} if negatives is None else {"negatives": negatives}
        for name, tensor in given.items():
            check_embeddings(self._identifier, name, tensor)
        width = embeddings.shape[1]
        if embeddings.shape != embeddings_b.shape or (negatives is not None and negatives.shape[1] != width):
            shapes = ", ".join(f"{name} of shape {list(tensor.shape)}" for name, tensor in given.items())
            raise ValueError(
                f"{self._identifier}: {shapes} came; give [B, D] embeddings twice, and [N, D] negatives or none."
            )
        with torch.autocast(embeddings.device.type, enabled=False):
            queries, documents, *more = (unit_rows(full_precision(each)) for each in given.values())
            right = (queries * documents).sum(dim=-1) / self.temperature
            scores = queries @ documents.to(queries).mT / self.temperature
            wrong = _off_diagonal(scores)
            if more:
                wrong = torch.cat([wrong, (queries @ more[0].to(queries).mT / self.temperature).flatten()])
            if len(right) == 0 or len(wrong) == 0:
                return sum((each.sum() * 0.0 for each in given.values()), scores.sum() * 0.0)
            total = mann_whitney_sum(right, wrong, self.pairs_at_once)
            return total / (len(right) * (len(wrong) if self.over_negatives == "mean" else 1))


def mann_whitney_sum(
    right: Float[Tensor, " right"], wrong: Float[Tensor, " wrong"], pairs_at_once: int = 2**20
) -> Float[Tensor, ""]:
    """``sum_ik softplus(wrong_k - right_i)``, of no more than so many pairs at once, unless one row has more.

    Example:
        >>> mann_whitney_sum(torch.zeros(2), torch.zeros(3), pairs_at_once=2)  # 6 log 2
        tensor(4.1589)
    """
    if len(right) * len(wrong) <= pairs_at_once or in_transform():
        return F.softplus(wrong.unsqueeze(0) - right.unsqueeze(1)).sum()
    with torch.no_grad():
        total, of_right, of_wrong = right.new_zeros(()), torch.zeros_like(right), []
        for part in torch.split(wrong, max(pairs_at_once // len(right), 1)):
            difference = part.unsqueeze(0) - right.unsqueeze(1)
            total += F.softplus(difference).sum()
            slope = difference.sigmoid_()
            of_right -= slope.sum(dim=1)
            of_wrong.append(slope.sum(dim=0))
    # The value, and what has these slopes: 0 by itself.
    moved = (of_right * (right - right.detach())).sum() + (torch.cat(of_wrong) * (wrong - wrong.detach())).sum()
    refusal = "mw_loss: second derivatives (create_graph=True) need all pairs at once; give a larger pairs_at_once."
    return total + first_derivatives_only(moved, refusal)


def _off_diagonal(scores: Float[Tensor, "rows rows"]) -> Float[Tensor, " others"]:
    """The entries beside the diagonal, row by row."""
    size = len(scores)
    return scores.flatten()[:-1].view(max(size - 1, 0), size + 1)[:, 1:].flatten()
