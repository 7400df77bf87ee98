"""An objective is a weighted sum of named losses, each fed by name with the tensors that a step has."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from lightning_losses.losses.base import Loss, forward_inputs

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Constant:
    """The same weight throughout."""

    value: float

    def __call__(self, progress: float) -> float:
        """The weight at this fraction of training."""
        return self.value


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` in a straight line, while `progress` goes from `begin` to `until`; flat outside.

    Example:
        >>> Linear(0.0, 2.0, until=0.5)(0.25)
        1.0
    """

    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0

    def __post_init__(self) -> None:
        _check_span(type(self).__name__, self.begin, self.until)

    def __call__(self, progress: float) -> float:
        """The weight at this fraction of training."""
        return self.start + (self.end - self.start) * _fraction(progress, self.begin, self.until)


@dataclass(frozen=True)
class Cosine:
    """From `start` to `end` along half a cosine, while `progress` goes from `begin` to `until`; flat outside.

    Example:
        >>> round(Cosine(1.0, 0.0)(0.5), 6)
        0.5
    """

    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0

    def __post_init__(self) -> None:
        _check_span(type(self).__name__, self.begin, self.until)

    def __call__(self, progress: float) -> float:
        """The weight at this fraction of training."""
        done = _fraction(progress, self.begin, self.until)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class WarmUp:
    """From 0 to `value` in a straight line while `progress` goes from 0 to `until`; `value` from then on.

    Example:
        >>> WarmUp(2.0, until=0.1)(0.05)
        1.0
    """

    value: float = 1.0
    until: float = 0.1

    def __post_init__(self) -> None:
        _check_span(type(self).__name__, 0.0, self.until)

    def __call__(self, progress: float) -> float:
        """The weight at this fraction of training."""
        return self.value * _fraction(progress, 0.0, self.until)


def _check_span(schedule: str, begin: float, until: float) -> None:
    if not 0 <= begin < until <= 1:
        raise ValueError(
            f"{schedule}: begin={begin} and until={until} came; give 0 <= begin < until <= 1, fractions of training."
        )


def _fraction(progress: float, begin: float, until: float) -> float:
    return min(max((progress - begin) / (until - begin), 0.0), 1.0)


class Term(nn.Module):
    """One named loss of an objective: what it computes, how much it weighs, where its tensors come from.

    Args:
        loss: a `Loss`, any module or any function whose arguments are named tensors and whose result is a scalar.
        weight: a finite number, or a schedule that maps the fraction of training done to one.
        inputs: for losses with names of their own, ``{argument: tensor of the step}``.

    Example:
        >>> term = Term(torch.nn.CrossEntropyLoss(), inputs={"input": "logits"})
        >>> term.needs
        {'logits': True, 'target': True}
    """

    def __init__(
        self, loss: Callable[..., Tensor], weight: float | Schedule = 1.0, inputs: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        if not callable(loss):
            raise ValueError(f"Term: loss={loss!r} came; give a Loss, a module or a function.")
        if not callable(weight) and not (isinstance(weight, (int, float)) and math.isfinite(weight)):
            raise ValueError(f"Term: weight={weight!r} came; give a finite number or a schedule of progress.")
        self.loss = loss
        self.weight = weight
        # A module that wraps another loss has the signature of that one.
        signed = hasattr(loss, "__signature__")
        takes = forward_inputs(loss.forward if isinstance(loss, nn.Module) and not signed else loss)
        renamed = dict(inputs or {})
        if unknown := sorted(set(renamed) - set(takes)):
            raise ValueError(f"Term: inputs name {unknown}, which {_name(loss)} does not take; it takes {list(takes)}.")
        self._arguments = {
            argument: (renamed.get(argument, argument), required) for argument, required in takes.items()
        }
        self._needs = dict(self._arguments.values())

    @property
    def needs(self) -> dict[str, bool]:
        """The step's tensors that this term takes, by name: True where it can't do without."""
        return self._needs

    @property
    def batch_coupled(self) -> bool:
        """Whether the loss must see the batch of all processes: by its definition, or by a batch norm that it holds."""
        if getattr(self.loss, "batch_coupled", False):
            return True
        parts = self.loss.modules() if isinstance(self.loss, nn.Module) else ()
        return any(isinstance(part, _BatchNorm) and not isinstance(part, nn.SyncBatchNorm) for part in parts)

    def denominator(self, tensors: Mapping[str, Any]) -> Tensor | None:
        """What the loss's mean divides by on these tensors; None for what is no mean over samples or not ours."""
        if not isinstance(self.loss, Loss) or getattr(self.loss, "reduction", None) != "mean":
            return None
        taken = {argument: tensors.get(source) for argument, (source, _) in self._arguments.items()}
        # Of tensors by layer any tells the number of samples.
        taken = {
            name: next(iter(value.values()), None) if isinstance(value, Mapping) else value
            for name, value in taken.items()
        }
        return self.loss.denominator(**{name: value for name, value in taken.items() if isinstance(value, Tensor)})

    def weight_at(self, progress: float | None) -> float:
        """The weight at this fraction of training."""
        if not callable(self.weight):
            return self.weight
        if progress is None:
            raise ValueError(
                f"Term: the weight of {_name(self.loss)} follows a schedule, but the step gave no "
                "'progress'; set max_epochs or max_steps, or give a number as weight."
            )
        return self.weight(float(progress))

    def forward(self, tensors: Mapping[str, Any]) -> Tensor:
        """Evaluate the loss, unweighted, on the tensors that it takes."""
        return self.loss(
            **{argument: tensors[source] for argument, (source, _) in self._arguments.items() if source in tensors}
        )

    def extra_repr(self) -> str:
        """The weight."""
        return f"weight={self.weight}"


class ObjectiveValue(NamedTuple):
    """The total that is minimised, and its named parts before weighting."""

    total: Tensor
    parts: dict[str, Tensor]


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

    def __init__(self, terms: Mapping[str, Term | Callable[..., Tensor]]) -> None:
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
        share: Callable[[Tensor], Tensor] | None = None,
        **tensors: Any,
    ) -> ObjectiveValue:
        """Evaluate every term.

        Args:
            gather: makes the batch of all processes from this process's; applied to what batch-coupled terms take.
            share: maps a mean's denominator on this process to the factor that makes it its share of the mean over
                all processes; applied to the other terms.
            **tensors: the step's tensors under their glossary names; `progress` drives scheduled weights.
        """
        gathered: dict[str, Any] = {}
        parts: dict[str, Tensor] = {}
        total: Tensor | None = None
        for name, term in self._terms().items():
            missing = [needed for needed, required in term.needs.items() if required and needed not in tensors]
            if missing:
                raise ValueError(
                    f"Objective: term '{name}' ({_name(term.loss)}) needs {', '.join(map(repr, missing))}; the "
                    f"step offered {', '.join(map(repr, sorted(tensors)))}."
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
            if share is not None and not term.batch_coupled:
                denominator = term.denominator(tensors)
                part = part if denominator is None else part * share(denominator)
            parts[name] = part
            weight = term.weight_at(tensors.get("progress"))
            # A product with 1 changes no bit, and costs both passes an operation.
            weighted = part if weight == 1 else weight * part
            total = weighted if total is None else total + weighted
        assert total is not None
        return ObjectiveValue(total, parts)

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


def _name(loss: Callable[..., Any]) -> str:
    return type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", repr(loss))
