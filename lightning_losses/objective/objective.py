"""An objective is a weighted sum of named losses, each fed by name with the tensors that a step has."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_losses.balancing.base import Balancing, Step
from lightning_losses.losses.glossary import GLOSSARY, is_shared
from lightning_losses.networks.calls import in_evaluation
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.objective.term import Term, name_of
from lightning_losses.parallel.processes import each_alone


class Weighed(NamedTuple):
    """A term's value as a share of the mean over all processes, and the samples that this process has in that mean."""

    part: Tensor
    samples: Tensor


Weigh = Callable[[Term, Tensor, Mapping[str, Any]], Weighed]
# Of a policy and the step's losses [T], what each term is multiplied by; None leaves that to the end of the step.
Balance = Callable[[Balancing, Tensor], Tensor | None]


class ObjectiveValue(NamedTuple):
    """The total that is minimised, and its named parts before weighting.

    Attributes:
        total: the weighted sum of the parts.
        parts: the terms' values.
        weights: what each part was multiplied by; a tensor where a policy has a share in it.
        samples: how many samples each part is a mean over, where somebody has counted them.
        shares: the parts times their terms' own weights.
    """

    total: Tensor
    parts: dict[str, Tensor]
    weights: dict[str, float | Tensor]
    samples: dict[str, Tensor]
    shares: dict[str, Tensor]


class Objective(nn.Module):
    """A weighted sum of named losses; each term picks the tensors it takes from those that the step has.

    Args:
        terms: losses by name; a bare loss weighs 1.
        balancing: a policy of `lightning_losses.balancing` that weighs the terms anew in every step of training, on top
            of their own weights; None: these alone, as in evaluation. In a loop of your own a call in training is a
            step, and policies of gradients need `balanced_backward`.

    Called with two tensors, they are `logits` and `target`. `Criterion` returns the total alone, where a project
    expects a loss of torch.

    Raises:
        ValueError: no terms, or names that no module can have; a policy of another objective; when called, a tensor
            that a term needs and the step lacks, or a term that is no scalar.

    Example:
        >>> from lightning_losses.losses import KD, CrossEntropy
        >>> objective = Objective({"ce": Term(CrossEntropy(), 0.1), "kd": Term(KD(temperature=2.0), 0.9)})
        >>> logits, teacher_logits = torch.zeros(2, 3), torch.zeros(2, 3)
        >>> value = objective(logits=logits, teacher_logits=teacher_logits, target=torch.tensor([0, 1]))
        >>> sorted(value.parts)
        ['ce', 'kd']
    """

    def __init__(
        self, terms: Mapping[str, nn.Module | Callable[..., Tensor]], balancing: Balancing | None = None
    ) -> None:
        super().__init__()
        if not terms:
            raise ValueError("Objective: no terms came; give at least one, for example {'ce': Term(CrossEntropy())}.")
        if not isinstance(terms, Mapping):
            raise ValueError(
                f"Objective: terms came as a {type(terms).__name__}; give losses by name, for example "
                "{'ce': Term(CrossEntropy())}."
            )
        named = {name: term if isinstance(term, Term) else Term(term) for name, term in terms.items()}
        try:
            self.terms = nn.ModuleDict(named)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"Objective: terms named {list(named)} came, which torch refuses ({error.args[0]}); give other names."
            ) from None
        if balancing is not None and not isinstance(balancing, Balancing):
            raise ValueError(
                f"Objective: balancing={balancing!r} came; give a policy of lightning_losses.balancing, such as "
                "UncertaintyWeighting() or PCGrad()."
            )
        if balancing is not None:
            balancing.begin(len(self.terms))
        self.balancing = balancing

    def needs(self, tensor: str) -> bool:
        """Whether some term takes this tensor, required or not."""
        return any(tensor in term.needs for term in self._terms().values())

    @property
    def lazy(self) -> bool:
        """Whether some loss has parameters whose shapes are not known before the first call."""
        return any(is_lazy(parameter) for parameter in self.parameters())

    def forward(
        self,
        logits: Any = None,
        target: Any = None,
        /,
        *,
        gather: Callable[[Any], Any] | None = None,
        weigh: Weigh | None = None,
        balance: Balance | None = None,
        **tensors: Any,
    ) -> ObjectiveValue:
        """Evaluate every term.

        Args:
            logits: the step's, where they aren't given by name.
            target: likewise.
            gather: makes the batch of all processes from this process's; applied to what batch-coupled terms take.
            weigh: makes of a term, its value and this process's tensors the value that is added up, and the samples
                that it is a mean over.
            balance: asks the policy of balancing, which otherwise takes the call for a step.
            **tensors: the step's tensors under their glossary names; `progress` drives scheduled weights.
        """
        for name, tensor in (("logits", logits), ("target", target)):
            if tensor is not None and name in tensors:
                raise ValueError(f"Objective: {name} came twice, by position and by name; give it once.")
            if tensor is not None:
                tensors[name] = tensor
        gathered: dict[str, Any] = {}
        parts: dict[str, Tensor] = {}
        weights: dict[str, float | Tensor] = {}
        samples: dict[str, Tensor] = {}
        shares: dict[str, Tensor] = {}
        for name, term in self._terms().items():
            missing = [needed for needed, required in term.needs.items() if required and tensors.get(needed) is None]
            if missing:
                raise ValueError(
                    f"Objective: term '{name}' ({name_of(term.loss)}) needs {', '.join(map(repr, missing))}; the "
                    f"step offered {', '.join(repr(name) for name in sorted(tensors) if tensors[name] is not None)}"
                    f"{_giver(missing)}."
                )
            offered: Mapping[str, Any] = tensors
            if gather is not None and term.batch_coupled:
                for needed in term.needs:
                    if needed in tensors and needed not in gathered:
                        gathered[needed] = tensors[needed] if is_shared(needed) else gather(tensors[needed])
                offered = gathered
            # What was not gathered differs between processes.
            with nullcontext() if offered is gathered else each_alone():
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
            shares[name] = part if weight == 1 else weight * part
        if self.balancing is not None and self.training:
            losses = _present(list(shares.values()), weights, samples)
            factors = (balance or _at_once)(self.balancing, losses)
            if factors is not None:
                total = _balanced(self.balancing, list(shares.values()), losses, factors)
                own = zip(weights.items(), factors.detach(), strict=True)
                weights = {name: weight * factor for (name, weight), factor in own}
                return ObjectiveValue(total, parts, weights, samples, shares)
        first, *others = shares.values()
        return ObjectiveValue(sum(others, first), parts, weights, samples, shares)

    @torch.no_grad()
    def materialize(self, **tensors: Any) -> None:
        """Give lazily shaped parameters their shapes, by one evaluation of their terms on example tensors."""
        for term in self._terms().values():
            if any(is_lazy(parameter) for parameter in term.parameters()):
                # In evaluation mode, so that no running statistics begin with the example.
                with in_evaluation(term):
                    term(tensors)

    def _terms(self) -> dict[str, Term]:
        return {name: term for name, term in self.terms.items() if isinstance(term, Term)}


def _present(shares: list[Tensor], weights: Mapping[str, Any], samples: Mapping[str, Tensor]) -> Tensor:
    """[T] the losses without gradient, in full precision; NaN where a term has no samples, or the weight 0."""
    losses = full_precision(torch.stack([share.detach() for share in shares]))
    absent = [
        weight == 0 if name not in samples or weight == 0 else samples[name] == 0 for name, weight in weights.items()
    ]
    if not any(isinstance(one, Tensor) or one for one in absent):
        return losses
    mask = torch.stack([torch.as_tensor(one, device=losses.device) for one in absent])
    return losses.masked_fill(mask, torch.nan)


def _at_once(balancing: Balancing, losses: Tensor) -> Tensor:
    """What a policy multiplies the terms by where a call is a step."""
    if balancing.reads == "gradients" or balancing.watches_gradients:
        raise ValueError(
            f"Objective: {type(balancing).__name__} needs the terms' gradients, which a plain call does not compute; "
            "use ObjectiveMixin and a Trainer, or balanced_backward of lightning_losses.objective in your own loop."
        )
    factors = balancing.weights(losses)
    if torch.is_grad_enabled():
        balancing.update(Step(losses))
    return factors


def _balanced(balancing: Balancing, shares: list[Tensor], losses: Tensor, factors: Tensor) -> Tensor:
    """The sum of the terms, each times its factor, and of what the policy adds for those that are present."""
    total = torch.stack([factor.to(share) * share for factor, share in zip(factors, shares, strict=True)]).sum()
    if (penalties := balancing.penalties()) is not None:
        # A loss that is not finite shows in the sum.
        total = total + torch.where(losses.isnan(), 0.0, penalties).sum().to(total)
    return total


def _giver(missing: Sequence[str]) -> str:
    """The end of a sentence about tensors that a step lacks: what makes them."""
    if foreign := [name for name in missing if name not in GLOSSARY]:
        return f"; say which of them it takes, such as Term(loss, inputs={{{foreign[0]!r}: 'logits'}})"
    if any(name.removeprefix("teacher_") in ("features", "feature_maps") for name in missing):
        return (
            "; to give them, call self.tap(student=..., teacher=...) in a module with DistillationMixin, or use "
            "FeatureTap"
        )
    if any(name.startswith("teacher_") for name in missing):
        return "; to give it, set self.teacher in a module with DistillationMixin, or run experiment=distill"
    return ""
