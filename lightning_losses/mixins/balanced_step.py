"""An optimizer step of an objective with a policy: losses and gradients of all its batches, and their balance."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import Balancing, GradientBalancing, Step
from lightning_losses.balancing.term_gradients import TermGradients
from lightning_losses.objective import Objective, ObjectiveValue
from lightning_losses.optim.selection import select_parameters
from lightning_losses.parallel.processes import is_distributed_tensor, total_of_all


class TermRecord(NamedTuple):
    """The inner products of a step's term gradients with respect to the shared parameters.

    Attributes:
        terms: the terms' names.
        gram: [T, T] the inner products of the terms' gradients, each times its term's weight.
        weights: [T] the policy's factor of each term; None without a policy.
    """

    terms: tuple[str, ...]
    gram: Float[Tensor, "terms terms"]
    weights: Float[Tensor, " terms"] | None


class BalancedSteps(dict[int, "BalancedStep"]):
    """The current steps by their objectives' ids; a copy of a module begins its own."""

    def __reduce__(self) -> Any:
        return BalancedSteps, ()

    def __deepcopy__(self, memo: Any) -> "BalancedSteps":
        return BalancedSteps()


class BalancedStep:
    """The terms of one objective over the batches of an optimizer step.

    A policy sees the whole step: losses are means over the samples of all batches and processes, and gradients are the
    gradients of these means. A policy that needs neither before the backward pass costs nothing; a policy that needs
    gradients costs a backward pass and the memory of a gradient for each term.

    Args:
        module: the module of the step.
        objective: an objective with a policy, or one whose terms are watched.
        watched: whether to make a record of the terms' gradients.

    Raises:
        ValueError: manual optimization, or a strategy that accumulates by itself, for a policy that needs the whole
            step; patterns that match no shared parameter.
    """

    def __init__(self, module: Any, objective: Objective, watched: bool) -> None:
        self._module, self._objective = module, objective
        self._policy: Balancing | None = objective.balancing
        self._several = module.trainer.accumulate_grad_batches > 1
        self._watched = watched
        self._losses: list[Tensor] = []
        self._samples: list[Tensor] = []
        self._pending: Tensor | None = None
        self._value: ObjectiveValue | None = None
        self._place = -1
        self._scale: Tensor | None = None
        self._rows: TermGradients | None = None
        policy = self._policy
        who = policy.name if policy is not None else "gradient_conflict"
        if not module.automatic_optimization:
            remedy = "leave the monitor out" if policy is None else "a learned policy, such as UncertaintyWeighting"
            raise ValueError(
                f"{who}: automatic_optimization=False came, so it is unknown which backward passes belong to a step; "
                f"use automatic optimization, or {remedy}."
            )
        reads = policy.reads if policy is not None else "nothing"
        watches = policy is not None and policy.watches_gradients
        if reads == "gradients" or watches or watched or (reads == "losses" and self._several):
            strategy = module.trainer.strategy
            if strategy.handles_gradient_accumulation:
                raise ValueError(f"{who}: {type(strategy).__name__} doesn't show gradients; use DDP or one process.")
            self._rows = self._term_gradients(who)

    def factors(self, policy: Balancing, losses: Tensor) -> Tensor | None:
        """The policy's weights, if they are known before the backward pass."""
        self._pending = losses
        if policy.reads == "gradients" or (policy.reads == "losses" and self._several):
            return None
        if policy.reads == "losses":
            ones = torch.ones_like(losses)
            losses = _means([losses], [ones])
        return policy.weights(losses)

    def note(self, value: ObjectiveValue) -> None:
        """Record a batch's value before its backward pass.

        Raises:
            ValueError: a second value of the same batch.
        """
        place = self._module.trainer.fit_loop.batch_idx
        if self._value is not None and self._place == place:
            held = "that GradientConflict watches" if self._policy is None else "with a policy"
            raise ValueError(
                f"{type(self._module).__name__}: an objective {held} was evaluated twice in a batch, which would give "
                "each term two gradients; evaluate it once, on all samples."
            )
        self._value, self._place = value, place

    def before_backward(self, loss: Tensor) -> None:
        """Gather the batch's losses and gradients, with their weights in the loss of this backward pass."""
        value, self._value = self._value, None
        if value is None:
            return
        (self._scale,) = torch.autograd.grad(loss, [value.total], retain_graph=True, allow_unused=True)
        if self._scale is None:
            # The loss doesn't contain this objective, so its gradients don't concern the policy.
            self._rows = None
            return
        samples = torch.ones(len(value.parts), device=loss.device)
        if self._several:
            samples = total_of_all(torch.stack([value.samples[name].to(samples) for name in value.parts]))
        self._samples.append(samples)
        if self._pending is not None:
            self._losses.append(self._pending)
        if self._rows is not None:
            self._rows.add(list(value.shares.values()), self._scale, samples if self._several else None)

    def finish(self) -> TermRecord | None:
        """Balance the gradients after the step's last batch, and update the policy; return its record if watched."""
        if self._scale is None:
            return None
        batches = self._module.trainer.accumulate_grad_batches
        # The factor by which the precision and the module multiply the loss.
        scale = self._scale.detach() * batches
        policy, rows, gram = self._policy, self._rows, None
        losses = _means(self._losses, self._samples) if policy is not None else None
        if rows is not None:
            counted = torch.stack(self._samples).sum(dim=0)
            rows.of_step(torch.where(counted > 0, batches / counted, 0.0) if self._several else None)
            gram = rows.gram() / float(scale) ** 2
            if not gram.isfinite().all():
                # The gradient of the sum isn't finite either; whoever checks it decides about the step.
                return None
        weights = None
        if policy is not None and losses is not None:
            weights = self._apply(policy, losses, gram)
            norms = None if gram is None else gram.diagonal().clamp(min=0).sqrt().to(losses)
            policy.update(Step(losses, norms))
            if self._several:
                _learn_from(policy, losses, scale)
        if gram is None or not self._watched:
            return None
        return TermRecord(tuple(self._objective.terms), gram, weights)

    def _apply(self, policy: Balancing, losses: Tensor, gram: Tensor | None) -> Tensor:
        """The step's weights; multiplies the gradients by them if the loss was not multiplied."""
        if isinstance(policy, GradientBalancing):
            assert self._rows is not None and gram is not None
            weights = policy.combined(gram, ~losses.isnan().cpu())
            self._rows.add_to_gradients(weights, policy.head_weights())
            return weights
        weights = policy.weights(losses).detach()
        if policy.reads == "losses" and self._rows is not None and self._several:
            self._rows.add_to_gradients(weights, weights)
        return weights

    def _term_gradients(self, who: str) -> TermGradients:
        module, policy = self._module, self._policy
        own = {id(parameter) for parameter in policy.parameters()} if policy is not None else set()
        trained = {n: p for n, p in module.named_parameters() if p.requires_grad and id(p) not in own}
        terms = len(self._objective.terms)
        patterns = None if policy is None else policy.shared_patterns()
        if patterns is None:
            return TermGradients(who, trained, terms)
        shared = select_parameters(who, trained.items(), patterns)
        everywhere = isinstance(policy, GradientBalancing) and policy.weighs_heads
        return TermGradients(who, trained if everywhere else shared, terms, shared)


def _means(losses: list[Tensor], samples: list[Tensor]) -> Float[Tensor, " terms"]:
    """The terms' means over the batches of all processes; NaN for a term that occurred in no batch."""
    values = torch.stack(losses)
    values = values.to(torch.float32 if values.device.type == "mps" else torch.float64)
    counts = torch.stack(samples).to(values).masked_fill(values.isnan(), 0.0)
    values = torch.where(values.isnan(), 0.0, values)
    sums = total_of_all(torch.stack([(values * counts).sum(dim=0), counts.sum(dim=0)]))
    return sums[0] / sums[1]


def _learn_from(policy: Balancing, losses: Tensor, scale: Tensor) -> None:
    """Give learned weights the gradient of the whole step; for unequal batches it isn't the sum of the parts."""
    parameters = [parameter for parameter in policy.parameters() if parameter.grad is not None]
    if not parameters:
        return
    if any(is_distributed_tensor(parameter) for parameter in parameters):
        raise ValueError(
            f"{policy.name}: accumulate_grad_batches came with FSDP2, which shards the policy's parameters; use DDP, "
            "or accumulate_grad_batches=1."
        )
    with torch.enable_grad():
        weights, penalties = policy.weights(losses), policy.penalties()
        present = (~losses.isnan()).to(weights)
        total = weights @ losses.nan_to_num(0.0, torch.inf, -torch.inf).to(weights)
        total = total if penalties is None else total + penalties @ present
    for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
        assert parameter.grad is not None
        parameter.grad.copy_(gradient * scale)
