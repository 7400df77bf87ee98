"""EMO: an earth mover's distance between the predicted token and the target, by how alike the tokens are."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss, index_rows
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import Positive


class EMO(RowLoss):
    """EMO: an earth mover's distance between the predicted token and the target, by how alike the tokens are.

    With q the softmax of the logits, y the target, and cos(v, y) the cosine of the cost embeddings of v and y, the
    distance is ``d = 1 - Σ_{v ≠ y} q_v cos(v, y)``, and with L the cross-entropy

    - "emo1" is ``(sg(L / (d + ε)) d + L) / 2``, which emphasises likelihood: its value is nearly L.
    - "emo2" is ``sg(d / (L + ε)) L + d``: its value is nearly 2 d.

    sg cuts the gradient, so that both parts pull alike. The transport's cost is ``1 - cos``; moving all mass to one
    token bounds it by ``Σ_v q_v (1 - cos(v, y))``. A fused head takes its own weight as the cost embedding, by
    `linear_emo`; `LanguageModel` does so.

    Args:
        mode: "emo1" or "emo2".
        subtract_target: whether the target's share of the sum is taken out of the value, as in the authors' code;
            False has the paper's bound, at least 0. The gradient of d is the same.
        max_ratio: the largest ratio in sg, above 0; None for none.
        epsilon: ε, above 0.

    Shapes:
        logits: [..., C]; target: [...] class indices; cost_embedding: [C, D], constant; a row of zeros is like none.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Source:
        Ren, Wu, Zhu, 2023, "EMO: Earth Mover Distance Optimization for Auto-Regressive Language Modeling",
        arXiv:2310.04691, and the code, DRSY/EMO, one of whose scripts caps the ratio of "emo1" at 3. It smooths the
        target by 1e-15, which no digit of a float64 shows.

    Example:
        >>> alike = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # tokens 0 and 1 mean the same
        >>> loss, target = EMO("emo2", reduction="none"), torch.tensor([0, 0])
        >>> loss(torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]), target, alike)
        tensor([4.9340e-04, 1.9998e+00])
    """

    status = "confirmed"
    evidence = "DRSY/EMO"

    mode: Literal["emo1", "emo2"] = "emo1"
    subtract_target: bool = True
    max_ratio: Positive | None = None
    epsilon: Positive = 1e-10

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Int[Tensor, "*rows"],
        cost_embedding: Float[Tensor, "classes dim"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        given = index_rows(self._identifier, logits, target, self.ignore_index)
        check_floating(self._identifier, "cost_embedding", cost_embedding)
        if cost_embedding.ndim != 2 or len(cost_embedding) != logits.shape[-1]:
            raise ValueError(
                f"{self._identifier}: cost_embedding of shape {list(cost_embedding.shape)} came with logits of "
                f"{logits.shape[-1]} classes; give one vector for each class, [{logits.shape[-1]}, D]."
            )
        log_q = log_probabilities(given.logits)
        direction = unit_rows(full_precision(cost_embedding.detach())).to(log_q.dtype)
        with torch.autocast(logits.device.type, enabled=False):
            cosine = direction[given.target] @ direction.transpose(0, 1)
        alike = log_q.exp() * cosine
        distance = 1 - alike.sum(dim=-1)
        if self.subtract_target:
            distance = distance + pick(alike, given.target).detach()
        likelihood = -pick(log_q, given.target)
        if self.mode == "emo1":
            value = (self._ratio(likelihood, distance) * distance + likelihood) / 2
        else:
            value = self._ratio(distance, likelihood) * likelihood + distance
        return reduce(value, self.reduction, given.kept)

    def _ratio(self, over: Float[Tensor, "*rows"], under: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        ratio = over.detach() / (under.detach() + self.epsilon)
        return ratio if self.max_ratio is None else ratio.clamp(max=self.max_ratio)
