"""Makes an optimizer step's gradient that of the mean over all its samples, however they are split into batches."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.objective.term import Count
from lightning_losses.parallel.processes import is_distributed_tensor


@dataclass(eq=False)
class Noted:
    """A part of a batch's loss that is a mean over samples.

    Attributes:
        count: the samples of all processes; counts of one kind refer to the same kind of samples in every batch.
        step: the number of optimizer steps done.
        part: [] the mean, as it enters the loss.
        factor: the factor of its gradient; None for none.
    """

    count: Count
    step: int
    part: Tensor = field(init=False)
    factor: Tensor | None = None


class _ScaleGradient(torch.autograd.Function):
    """Returns its input, and multiplies the gradient by a factor that is known when the backward pass begins."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, noted: Noted) -> Tensor:
        ctx.noted = noted
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        factor = ctx.noted.factor
        return gradient if factor is None else gradient * factor.to(gradient.dtype), None


@dataclass
class _Kind:
    """The sums of one kind over the step's batches so far.

    Attributes:
        samples: [] the number of samples.
        batches: the number of batches.
        gradients: the gradients of this kind alone; None if it is the only or the first kind.
    """

    samples: Tensor
    batches: int = 1
    gradients: list[Tensor | None] | None = None


class StepMeans:
    """The samples that the losses of the backward passes since the last optimizer step were means over.

    A batch's gradient is multiplied by its samples, and divided by the mean number of samples of the step's batches.
    Together with the factor 1/k of each of k accumulated batches, that gives the mean over all samples. It is linear in
    the gradient, so factors of your own on a batch's loss are kept. The number of a step's samples is known only at its
    last batch. So each backward pass rescales the accumulated gradient, and its own, by the samples so far. Batches of
    equal size stay bitwise the same.

    Terms that are means over different samples (all, or only labelled ones) are scaled differently. Their gradients are
    accumulated separately, which costs a copy of the gradients and a backward pass for such a term.
    """

    def __init__(self) -> None:
        self.noted: list[Noted] = []
        self._step: int | None = None
        self._batches = 0
        self._kinds: dict[Hashable, _Kind] = {}

    def __reduce__(self) -> Any:
        # A copy of a module begins its own step, because parts of a graph can't be copied.
        return StepMeans, ()

    def note(self, part: Float[Tensor, ""], count: Count, step: int) -> Float[Tensor, ""]:
        """Record a part of the batch's loss, to be scaled in its backward pass; drop unused parts of earlier steps."""
        self.noted = [one for one in self.noted if one.step == step]
        noted = Noted(count, step)
        noted.part = _ScaleGradient.apply(part, noted)
        self.noted.append(noted)
        return noted.part

    def prepare(
        self,
        loss: Tensor,
        gradient: Tensor | None,
        parameters: Sequence[Tensor],
        *,
        step: int,
        batches: int | None,
        more: bool,
    ) -> Tensor:
        """Scale the accumulated gradient and the coming one; returns the loss for `backward`.

        Args:
            loss: the loss of this batch.
            gradient: the loss's gradient, if it is no scalar.
            parameters: the parameters of the optimizers.
            step: the number of optimizer steps done.
            batches: the number of batches that the loss was divided by, if this batch is the step's last.
            more: whether further batches may come before the optimizer's step, so that the terms must be kept separate.

        Raises:
            ValueError: terms that are means over different samples, whose gradients can't be told apart.
        """
        noted, self.noted = self.noted, []
        slopes = torch.autograd.grad(loss, [one.part for one in noted], gradient, retain_graph=True, allow_unused=True)
        used = [(one, slope) for one, slope in zip(noted, slopes, strict=True) if slope is not None]
        self.noted = [] if more or batches else [one for one, slope in zip(noted, slopes, strict=True) if slope is None]
        if step != self._step or all(parameter.grad is None for parameter in parameters):
            self._kinds, self._batches = {}, 0
        self._step = step
        self._batches += 1
        groups = _grouped(used)
        again = [key for key in groups if key in self._kinds]
        if again and len(self._kinds | groups) > 1 and not (more or batches):
            raise ValueError(
                "manual optimization: several backward passes came before the optimizer's step, for terms that are "
                "means over different samples; use automatic optimization with accumulate_grad_batches, or step after "
                "each batch."
            )
        ratios = {key: self._add(key, group) for key, group in groups.items()}
        rest = 1.0 if batches is None else batches / self._batches
        if self._batches > 1 and (again or rest != 1):
            self._rescale(parameters, ratios, rest)
        if more and len(self._kinds) > 1:
            self._add_apart(groups, parameters)
        return loss if rest == 1 else loss * rest

    def _add(self, key: Hashable, group: list[tuple[Noted, Tensor]]) -> Tensor | None:
        """Add a batch's samples of one kind; returns the factor for the kind's accumulated gradient."""
        samples = group[0][0].count.samples
        if (before := self._kinds.get(key)) is None:
            self._kinds[key] = _Kind(samples)
            return None
        all_samples, all_batches = before.samples + samples, before.batches + 1
        own = all_batches * samples / all_samples
        earlier = all_batches * before.samples / (before.batches * all_samples)
        for noted, _ in group:
            noted.factor = torch.where(all_samples > 0, own, 1.0)
        earlier = torch.where(before.samples > 0, earlier, 1.0)
        before.samples, before.batches = all_samples, all_batches
        return earlier

    def _rescale(self, parameters: Sequence[Tensor], ratios: Mapping[Hashable, Tensor | None], rest: float) -> None:
        """Multiply the accumulated gradient of each kind by its ratio."""
        first, *others = self._kinds
        whole = _ratio(ratios.get(first), parameters)
        with torch.no_grad():
            held = [(number, local) for number, p in enumerate(parameters) if (local := _local(p.grad)) is not None]
            _multiply([gradient for _, gradient in held], whole * rest)
            for key in others:
                gradients = self._kinds[key].gradients
                if gradients is None:
                    continue
                ratio = _ratio(ratios.get(key), parameters)
                for number, gradient in held:
                    if (own := gradients[number]) is not None:
                        gradient.add_((own * ((ratio - whole) * rest).to(own)).to(gradient.dtype))
                _multiply([own for own in gradients if own is not None], ratio)

    def _add_apart(self, groups: Mapping[Hashable, list[tuple[Noted, Tensor]]], parameters: Sequence[Tensor]) -> None:
        """Also accumulate the gradients of all kinds except the first separately."""
        if any(is_distributed_tensor(parameter) for parameter in parameters):
            raise ValueError(
                "accumulate_grad_batches: the terms are means over different samples, whose gradients FSDP2 can't keep "
                "apart; use DDP, or accumulate_grad_batches=1."
            )
        first = next(iter(self._kinds))
        trained = [(number, p) for number, p in enumerate(parameters) if p.requires_grad]
        for key, group in groups.items():
            if key == first:
                continue
            found = torch.autograd.grad(
                [noted.part for noted, _ in group],
                [parameter for _, parameter in trained],
                [slope for _, slope in group],
                retain_graph=True,
                allow_unused=True,
            )
            kind = self._kinds[key]
            kind.gradients = kind.gradients or [None] * len(parameters)
            for (number, _), gradient in zip(trained, found, strict=True):
                if gradient is not None:
                    before = kind.gradients[number]
                    kind.gradients[number] = gradient.detach() if before is None else before + gradient.detach()


def _grouped(used: Sequence[tuple[Noted, Tensor]]) -> dict[Hashable, list[tuple[Noted, Tensor]]]:
    """The parts grouped by their samples, under names that are the same in every batch."""
    groups: dict[Hashable, list[tuple[Noted, Tensor]]] = {}
    for noted, slope in used:
        place = 0
        while (key := (noted.count.kind, place)) in groups and not groups[key][0][0].count.is_of_same(noted.count):
            place += 1
        groups.setdefault(key, []).append((noted, slope))
    return groups


def _ratio(ratio: Tensor | None, parameters: Sequence[Tensor]) -> Tensor:
    return torch.ones((), device=parameters[0].device) if ratio is None else ratio


def _local(gradient: Tensor | None) -> Tensor | None:
    return gradient.to_local() if is_distributed_tensor(gradient) else gradient  # type: ignore[union-attr]


def _multiply(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply tensors in place; half-precision tensors by a full-precision factor."""
    buckets: dict[Any, list[Tensor]] = {}
    for gradient in gradients:
        buckets.setdefault((gradient.device, gradient.dtype, gradient.layout), []).append(gradient)
    for (device, dtype, layout), members in buckets.items():
        if dtype in (torch.float32, torch.float64) and layout == torch.strided:
            torch._foreach_mul_(members, factor.to(device, dtype))
            continue
        for member in members:
            member.copy_(member.to(torch.promote_types(dtype, torch.float32)) * factor.to(device, torch.float32))
