"""The likelihood of a class under energies; and the loss of energy-based concept bottlenecks, which sums three."""

from typing import Any

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.checks import check_floating, check_number
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import classification_rows, required_target


class EnergyNLL(RowLoss):
    """The negative log-likelihood of the target under energies: the lower a class's energy, the likelier it is.

    ``E_y + log Σ_k exp(-E_k)``: cross-entropy of the logits -E. An energy of +inf rules a class out.

    Shapes:
        energies: [..., C]; target: [...] class indices, or [..., C] probabilities. Errors call -E the logits.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Xu, Qin, Mi, Wang, Li, 2024, "Energy-Based Concept Bottleneck Models: Unifying Prediction, Concept Intervention,
        and Probabilistic Interpretations", arXiv:2401.14142, and its code xmed-lab/ECBM; `ecbm` is the whole loss.

    Example:
        >>> import torch
        >>> round(EnergyNLL()(torch.tensor([[-2.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.1269
    """

    status = "confirmed"
    evidence = "xmed-lab/ECBM"

    def forward(self, energies: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        check_floating(self._identifier, "energies", energies)
        given = required_target(self._identifier, target)
        rows = classification_rows(self._identifier, -energies, given, self.ignore_index)
        value = cross_entropy(log_probabilities(rows.logits), required_target(self._identifier, rows.target))
        return reduce(value, self.reduction, rows.kept)


def ecbm(
    energies: Float[Tensor, "batch classes"],
    concept_energies: Float[Tensor, "batch concepts 2"],
    concept_class_energies: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"],
    concepts: Int[Tensor, "batch concepts"],
    *,
    class_weight: float = 3.0,
    concept_weight: float = 1.0,
    concept_class_weight: float = 1.0,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """The loss of an energy-based concept bottleneck: the class and the concepts by the input, the class by both.

    ``w_1 L(E(x, y)) + w_2 Σ_k L(E_k(x, c_k)) + w_3 L(E(c, y))`` with L of `EnergyNLL`. The concepts' terms are
    summed, as the authors do, so the second part grows with their number.

    Args:
        energies: [B, C] E(x, y) of each class with the input.
        concept_energies: [B, K, 2] of each concept with the input: absent, present.
        concept_class_energies: [B, C] E(c, y) of each class with the concepts.
        target: [B] class indices.
        concepts: [B, K] 1 where a concept is present, 0 where not; `ignore_index` where it is not known.
        class_weight: w_1, at least 0.
        concept_weight: w_2, at least 0.
        concept_class_weight: w_3, at least 0.
        ignore_index: samples with this target, and concepts with this value, are ignored.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a negative weight.

    Source:
        As `EnergyNLL`; the weights are the authors' for training.

    Example:
        >>> import torch
        >>> zeros = torch.zeros(2, 4)
        >>> value = ecbm(zeros, torch.zeros(2, 3, 2), zeros, torch.tensor([0, 3]), torch.zeros(2, 3).long())
        >>> round((value / torch.log(torch.tensor(2.0))).item(), 4)
        11.0
    """
    weights: dict[str, Any] = {
        "class_weight": class_weight,
        "concept_weight": concept_weight,
        "concept_class_weight": concept_class_weight,
    }
    for name, weight in weights.items():
        check_number("ecbm", name, weight, least=0)
    check_floating("ecbm", "concept_energies", concept_energies)
    if concept_energies.ndim != 3 or concept_energies.shape[-1] != 2:
        raise ValueError(
            f"ecbm: concept_energies of shape {list(concept_energies.shape)} came; give [batch, concepts, 2], the "
            "energies of each concept's absence and presence."
        )
    nll, each = EnergyNLL(ignore_index=ignore_index), EnergyNLL(ignore_index=ignore_index, reduction="none")
    of_classes = class_weight * nll(energies, target) + concept_class_weight * nll(concept_class_energies, target)
    # A sample that is ignored is so with its concepts.
    concepts = concepts.masked_fill((target == ignore_index).unsqueeze(-1), ignore_index)
    rows = each(concept_energies, concepts)
    known = (concepts != ignore_index).sum(dim=0).clamp(min=1)
    of_concepts = (rows.sum(dim=0) / known).sum()
    return of_classes + concept_weight * of_concepts
