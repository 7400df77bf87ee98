"""EnsLoss: every step uses another convex loss of the margins, drawn at random."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.kinds import index_rows
from lightning_losses.numerics.counter_random import counter_normals
from lightning_losses.numerics.settings import Bound, Seed

# Keeps every slope below 0.
_SLOPE = 1e-6


class EnsLoss(Loss):
    """EnsLoss: every step uses another convex loss of the margins, drawn at random.

    The gradient by the margin u is a random slope: the i-th smallest of the batch's draws ``-BC⁻¹_λ(r)``, r standard
    normal, at least -1, belongs to the i-th smallest margin; above u = 1 it is divided by u; then 1e-6 is subtracted.
    ``BC⁻¹_λ(r)`` is exp(r) for λ = 0 and ``max(1 + λ r, 0)^(1/λ)`` otherwise. The method defines slopes, but no value;
    the value here is the hinge loss ``mean max(1 - u, 0)``, which shows how training goes.

    With two classes, u is ``z_y`` minus the other logit. With more, every class has its own margins ``±z_c``, one
    against the rest, and its own slopes, which is an extension; the value is then the sum over the classes.

    The draws are a function of `loss_seed` and `step` alone: a resumed run draws what an uninterrupted one does, all
    processes draw the same numbers, and all batches of one step use the same loss.

    Args:
        box_cox: λ, from -1 to 1.
        loss_seed: of the draws, at least 0.
        ignore_index: rows with this target are ignored.

    Shapes:
        logits: [..., C]; target: [...] class indices; step: a scalar.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Source:
        Dai, 2024, "EnsLoss: Stochastic Calibrated Loss Ensembles for Preventing Overfitting in Classification",
        arXiv:2409.00908, and its code, statmlben/ensLoss, whose option to draw λ anew is left out.

    Example:
        >>> logits = torch.tensor([[0.0, 0.5], [1.0, 0.0]], requires_grad=True)
        >>> loss = EnsLoss()(logits, torch.tensor([1, 1]), step=0)
        >>> loss.item(), torch.autograd.grad(loss, logits)[0][:, 1].le(0).tolist()
        (1.25, [True, True])
    """

    batch_coupled = True
    status = "confirmed"
    evidence = "statmlben/ensLoss"

    box_cox: Annotated[float, Bound(least=-1, most=1)] = 0.0
    loss_seed: Seed = 0
    ignore_index: int = -100

    def forward(
        self, logits: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"], step: float
    ) -> Float[Tensor, ""]:
        """Check and evaluate; the class documents what."""
        rows = index_rows(self._identifier, logits, target, self.ignore_index)
        scores, label = rows.logits.flatten(0, -2), rows.target.flatten()
        # -inf masks a class; +inf is no number, and would be a margin like that of a masked class.
        scores = scores.masked_fill(scores == torch.inf, torch.nan)
        kept = torch.ones_like(label, dtype=torch.bool) if rows.kept is None else rows.kept.flatten()
        if scores.shape[-1] == 2:
            margins = ((2 * label - 1) * (scores[:, 1] - scores[:, 0])).unsqueeze(-1)
        else:
            own = label.unsqueeze(-1) == torch.arange(scores.shape[-1], device=label.device)
            margins = torch.where(own, scores, -scores)
        # Ignored rows come last, and have the draws that are left.
        order = margins.detach().masked_fill(~kept.unsqueeze(-1), torch.inf)
        drawn = torch.arange(len(label), device=label.device) < kept.sum()
        normals = counter_normals(order, self.loss_seed, step)
        slopes = random_slopes(order.t(), normals.t(), self.box_cox, drawn).t()
        hinge = torch.relu(1 - margins.detach())
        # The value of the hinge loss with the gradient of the slopes; a masked class has none.
        finite = margins.masked_fill(margins.isinf(), 0.0)
        values = (hinge + slopes * (finite - finite.detach())).masked_fill(~kept.unsqueeze(-1), 0.0)
        return values.sum() / kept.sum().clamp(min=1)


def random_slopes(
    margins: Float[Tensor, "*losses samples"],
    normals: Float[Tensor, "*losses samples"],
    box_cox: float = 0.0,
    drawn: Bool[Tensor, " samples"] | None = None,
) -> Float[Tensor, "*losses samples"]:
    """The slope at each margin of a random convex loss, below 0; see `EnsLoss`.

    Args:
        margins: u.
        normals: r.
        box_cox: λ.
        drawn: which draws count, as many as samples; the others are those of the largest margins.

    Example:
        >>> random_slopes(torch.tensor([0.5, -1.0]), torch.tensor([-1.0, -2.0]))
        tensor([-0.1353, -0.3679])
    """
    # By logarithms, which keep their digits towards λ = 0.
    sizes = (torch.log1p((box_cox * normals).clamp(min=-1)) / box_cox if box_cox else normals).exp()
    if drawn is not None:
        sizes = sizes.masked_fill(~drawn, 0.0)
    slopes = (-sizes).clamp(min=-1.0).sort(dim=-1).values
    places = margins.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
    slopes = slopes.gather(-1, places)
    return torch.where(margins > 1, slopes / margins.clamp(min=1), slopes) - _SLOPE
