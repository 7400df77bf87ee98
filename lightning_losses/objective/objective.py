"""An objective is a weighted sum of named losses, each fed by name with the tensors that a step has."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_losses.objective.term import Term, name_of


class Weighed(NamedTuple):
    """A term's value as a share of the mean over all processes, and the samples that this process has in that mean."""

    part: Tensor
    samples: Tensor


Weigh = Callable[[Term, Tensor, Mapping[str, Any]], Weighed]


class ObjectiveValue(NamedTuple):
    """The total that is minimised, and its named parts before weighting.

    Attributes:
        total: the weighted sum of the parts.
        parts: the terms' values.
        weights: what each part was multiplied by.
        samples: how many samples each part is a mean over, where somebody has counted them.
    """

    total: Tensor
    parts: dict[str, Tensor]
    weights: dict[str, float]
    samples: dict[str, Tensor]


class Objective(nn.Module):
    """A weighted sum of named losses; each term picks the tensors it takes from those that the step has.

    Args:
        terms: losses by name; a bare loss weighs 1.

    Raises:
        ValueError: no terms; when called, a tensor that a term needs and the step lacks, or a term that is no scalar.

    Example:
        >>> from lightning_losses.losses import KD, CrossEntropy
        >>> objective = Objective({"ce": Term(CrossEntropy(), 0.1), "kd": Term(KD(temperature=2.0), 0.9)})
        >>> logits, teacher_logits = torch.zeros(2, 3), torch.zeros(2, 3)
        >>> value = objective(logits=logits, teacher_logits=teacher_logits, target=torch.tensor([0, 1]))
        >>> sorted(value.parts)
        ['ce', 'kd']
    """

    def __init__(self, terms: Mapping[str, nn.Module | Callable[..., Tensor]]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("Objective: no terms came; give at least one, for example {'ce': Term(CrossEntropy())}.")
        self.terms = nn.ModuleDict(
            {name: term if isinstance(term, Term) else Term(term) for name, term in terms.items()}
        )

    def needs(self, tensor: str) -> bool:
        """Whether some term takes this tensor, required or not."""
        return any(tensor in term.needs for term in self._terms().values())

    @property
    def lazy(self) -> bool:
        """Whether some loss has parameters whose shapes are not known before the first call."""
        return any(is_lazy(parameter) for parameter in self.parameters())

    def forward(
        self,
        *,
        gather: Callable[[Any], Any] | None = None,
        weigh: Weigh | None = None,
        **tensors: Any,
    ) -> ObjectiveValue:
        """Evaluate every term.

        Args:
            gather: makes the batch of all processes from this process's; applied to what batch-coupled terms take.
            weigh: makes of a term, its value and this process's tensors the value that is added up, and the samples
                that it is a mean over.
            **tensors: the step's tensors under their glossary names; `progress` drives scheduled weights.
        """
        gathered: dict[str, Any] = {}
        parts: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        samples: dict[str, Tensor] = {}
        total: Tensor | None = None
        for name, term in self._terms().items():
            missing = [needed for needed, required in term.needs.items() if required and tensors.get(needed) is None]
            if missing:
                teacher = any(needed.startswith("teacher_") for needed in missing)
                raise ValueError(
                    f"Objective: term '{name}' ({name_of(term.loss)}) needs {', '.join(map(repr, missing))}; the "
                    f"step offered {', '.join(repr(name) for name in sorted(tensors) if tensors[name] is not None)}"
                    f"{'; a teacher gives it, by experiment=distill or DistillationMixin.' if teacher else '.'}"
                )
            offered: Mapping[str, Any] = tensors
            if gather is not None and term.batch_coupled:
                for needed in term.needs:
                    if needed in tensors and needed not in gathered:
                        gathered[needed] = gather(tensors[needed])
                offered = gathered
            part = term(offered)
            if part.ndim != 0:
                raise ValueError(
                    f"Objective: term '{name}' returned shape {list(part.shape)}; an objective adds "
                    "scalars, so give that loss reduction='mean' or 'sum'."
                )
            if weigh is not None:
                part, samples[name] = weigh(term, part, tensors)
            parts[name] = part
            weights[name] = weight = term.weight_at(tensors.get("progress"))
            # A product with 1 changes no bit, and costs both passes an operation.
            weighted = part if weight == 1 else weight * part
            total = weighted if total is None else total + weighted
        assert total is not None
        return ObjectiveValue(total, parts, weights, samples)

    @torch.no_grad()
    def materialize(self, **tensors: Any) -> None:
        """Give lazily shaped parameters their shapes, by one evaluation of their terms on example tensors."""
        for term in self._terms().values():
            if any(is_lazy(parameter) for parameter in term.parameters()):
                # In evaluation mode, so that no running statistics begin with the example.
                training = term.training
                term.eval()(tensors)
                term.train(training)

    def _terms(self) -> dict[str, Term]:
        return {name: term for name, term in self.terms.items() if isinstance(term, Term)}
