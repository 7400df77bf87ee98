"""The mixin that lets an `Objective` decide what a LightningModule minimises."""

import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_losses.balancing.base import Balancing
from lightning_losses.environment.lightning_internals import attached_trainer, running_hook
from lightning_losses.environment.repeated_batch import closes_step, runs_again
from lightning_losses.losses.base import Loss
from lightning_losses.losses.glossary import is_shared
from lightning_losses.losses.regularization.wdr_loss import layer_weights
from lightning_losses.mixins.balanced_step import BalancedStep, BalancedSteps, TermRecord
from lightning_losses.mixins.sample_states import SampleStates
from lightning_losses.mixins.training_means import all_processes
from lightning_losses.numerics.rows import multi_hot_rows
from lightning_losses.objective import Objective, ObjectiveValue, Term
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.objective.objective import Weighed
from lightning_losses.objective.term import Count
from lightning_losses.parallel.processes import (
    each_alone,
    gather_batch,
    neighbours,
    refuse_unknown_shapes,
    same_on_all,
    whole_parameter,
    world_size,
)


class ObjectiveMixin(SampleStates):
    """Lets an `Objective` decide what a LightningModule minimises.

    Set `self.objective`, then return `self.apply_objective(...)` from `training_step`, with the step's tensors under
    their glossary names. The mixin adds `step`, `epoch`, `progress` and `epoch_progress`, and `multi_hot` where only
    classes are given; it tells losses that remember samples what was kept of them (by the step's `index`), gives
    batch-coupled losses the batch of all processes, logs every part's mean over the epoch as
    ``train/objective/<term>`` and returns
    ``{"loss": total, "logits": ..., "target": ..., ...}``, which callbacks can read. In a validation or test step it
    evaluates the process's own batch, and logs ``val/objective`` or ``test/objective``. In `validate()` and `test()`
    alone a weight that follows a schedule has its value at the end of training; without a trainer it needs
    ``progress=``.

    Every term is the mean over its kept samples of the whole optimizer step, as `TrainingMeans` says. That holds
    for the library's losses and torch's own cross-entropy. Sums and other functions have no known count of samples:
    each process and each batch then has the same weight, so that the step's gradient is the mean of its batches' sums,
    also in an epoch's last step, which may have fewer batches (`Adapted` can declare a function to be a mean over
    samples).

    A policy of the objective's, `Objective(..., balancing=...)`, sees losses and gradients of that whole step too, and
    balances the gradients at the end of its last backward pass, before any other hook sees them. Called outside of a
    Trainer's `fit`, a step returns the loss that a policy of gradients has not balanced yet.

    The parts are summed on the device and logged with the epoch's last batch, since a call of `log` in every step
    costs more than a small loss. If an epoch is stopped early (`trainer.should_stop`), they are logged at its end;
    `on_train_epoch_end` of other callbacks runs too early to see them.

    Attributes:
        objective: the objective to minimise; its parameters, if any, train and are saved with the module's.
        gather_batches: True makes every loss on several processes the loss of one process with the whole batch:
            batch-coupled losses see the gathered batch, and the other means weigh each process by its samples, so
            that an uneven last batch or unequal numbers of ignored tokens change nothing. With False each process
            uses its own batch. A number, which must divide the number of processes, gathers among groups of that many
            neighbours: for batch-coupled losses the value is then the mean over the groups.
        offers_terms: whether `watch_terms` sees the objective's terms; False if a step sums them itself.

    Example:
        >>> import lightning, torch
        >>> from lightning_losses.losses import CrossEntropy
        >>> class Linear(ObjectiveMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Linear(4, 3)
        ...         self.objective = Objective({"ce": CrossEntropy(label_smoothing=0.1)})
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, target = batch
        ...         return self.apply_objective(inputs=inputs, logits=self.network(inputs), target=target)
        >>> sorted(Linear().training_step((torch.zeros(2, 4), torch.tensor([0, 1])), 0))
        ['inputs', 'logits', 'loss', 'target']
    """

    objective: Objective
    gather_batches: bool | int = True
    offers_terms: bool = True

    def setup(self, stage: str) -> None:
        """Forget a step that an exception ended; refuse losses with unknown shapes if several processes need them."""
        super().setup(stage)
        for name in ("_balanced_steps", "_watches_terms", "_term_record"):
            self.__dict__.pop(name, None)
        trainer = attached_trainer(self)
        if trainer is not None and trainer.world_size > 1:
            refuse_unknown_shapes(type(self).__name__, self)

    def apply_objective(self, **tensors: Any) -> dict[str, Any]:
        """Evaluate `self.objective` on the step's tensors, log its parts, and return the step's output.

        Raises:
            ValueError: no objective is set, or something else in its place.
        """
        objective = getattr(self, "objective", None)
        # A compiled objective passes the attribute on.
        if not hasattr(objective, "needs"):
            came = "no objective is set" if objective is None else f"self.objective is a {type(objective).__name__}"
            raise ValueError(
                f"{type(self).__name__}: {came}; set self.objective = Objective({{'ce': CrossEntropy()}}), with a name "
                "for each loss, in __init__."
            )
        offered = self.objective_tensors(tensors)
        value = self.evaluate_objective(self.objective, self.log_name(), offered)
        output = {"loss": value, **tensors}
        self.on_objective(output, offered)
        return output

    def on_objective(self, output: dict[str, Any], offered: dict[str, Any] | None = None) -> None:
        """After a step's objective was evaluated; mixins that remember the step do so here, and call `super()`.

        Args:
            output: of the step.
            offered: the tensors that the objective was given, if they are more than the output's.
        """
        if runs_again(self):
            return
        if self.sample_memories():
            self.remember_samples({**self.training_clock(), **output})
        self._renew_losses({**output, **(offered or {})})

    @contextmanager
    def beside_the_batch(self) -> Iterator[None]:
        """Within this context the network runs on other inputs than the step's batch.

        Mixins that record outputs of its layers keep those of the batch, so that the order of mixins does not matter.
        """
        yield

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The tensors offered to the objective; other mixins add theirs here, and call `super()`."""
        if self.objective.needs("weights") and "weights" not in tensors:
            layers = layer_weights(self, without=("objective", "peer_objective"))
            tensors = {**tensors, "weights": {name: whole_parameter(weight) for name, weight in layers.items()}}
        tensors = {**self.training_clock(), **self._with_multi_hot(tensors)}
        return {**tensors, **self.recalled(tensors)}

    def _with_multi_hot(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The step's tensors, and the labels that its target stands for where the objective takes those."""
        if "multi_hot" in tensors or not {"logits", "target"} <= tensors.keys():
            return tensors
        # What can do without, takes the classes.
        terms = [term for term in getattr(self.objective, "terms", {}).values() if isinstance(term, Term)]
        if not any(term.needs.get("multi_hot") for term in terms):
            return tensors
        classes = tensors["logits"].shape[-1]
        return {**tensors, "multi_hot": multi_hot_rows(tensors["target"], classes, *ignored_targets(self))}

    def _renew_losses(self, output: dict[str, Any]) -> None:
        """After a training step, let losses learn from it that do so."""
        renewed = terms_that_learn(self.objective)
        if not renewed or self.evaluates or not torch.is_grad_enabled():
            return
        tensors, group = {**self.training_clock(), **self._with_multi_hot(output)}, self.gathered_from()
        for term in renewed.values():
            given = term.given(tensors)
            if group is not False:
                given = {
                    name: value if is_shared(term.source(name)) else gather_batch(value, group)
                    for name, value in given.items()
                }
            term.loss.after_step(**given)

    def training_clock(self) -> dict[str, float]:
        """`step`, `epoch` and the fractions done, as far as the trainer knows them; outside of `fit` their end."""
        trainer = attached_trainer(self)
        if trainer is None or trainer.state.fn is None:
            return {}
        if trainer.state.fn != "fit":
            return {"epoch": trainer.current_epoch, "progress": 1.0, "epoch_progress": 1.0}
        clock: dict[str, float] = {"step": trainer.global_step, "epoch": trainer.current_epoch}
        steps = self.trainer.estimated_stepping_batches
        if math.isfinite(steps) and steps > 0:
            clock["progress"] = min(self.trainer.global_step / steps, 1.0)
        if self.trainer.max_epochs is not None and self.trainer.max_epochs > 0:
            clock["epoch_progress"] = min((self.trainer.current_epoch + 1) / self.trainer.max_epochs, 1.0)
        return clock

    def evaluate_objective(self, objective: Objective, log_name: str | None, tensors: dict[str, Any]) -> Tensor:
        """Evaluate one objective and log its parts as ``<log_name>/<term>``, the total as ``<log_name>``."""
        value = self.objective_value(objective, tensors)
        self.log_objective(log_name, value)
        return value.total

    def gathered_from(self) -> Any:
        """The processes whose batches `gather_batches` joins: a group, None for all, False for this one alone."""
        if not self.gather_batches or world_size() == 1:
            return False
        return None if self.gather_batches is True else neighbours(self.gather_batches)

    def objective_value(self, objective: Objective, tensors: dict[str, Any]) -> ObjectiveValue:
        """Evaluate one objective on the batch of all processes."""
        group = self.gathered_from()
        gather = None if group is False else functools.partial(gather_batch, group=group)
        step = self._balanced_step(objective)
        balance = step.factors if step is not None else _known_weights
        with each_alone() if gather is None else same_on_all(group):
            value = objective(gather=gather, weigh=_Weigh(self, objective), balance=balance, **tensors)
        if step is not None:
            step.note(value)
        return value

    def backward(self, loss: Tensor, *arguments: Any, **keywords: Any) -> None:
        """Run the backward pass of a batch; after the step's last one, balance the gradients of the terms."""
        steps: BalancedSteps = self.__dict__.get("_balanced_steps", BalancedSteps())
        for step in steps.values():
            step.before_backward(loss)
        super().backward(loss, *arguments, **keywords)
        if steps and closes_step(self):
            records = {key: step.finish() for key, step in steps.items()}
            steps.clear()
            self.__dict__["_term_record"] = records.get(id(self.objective))

    def watch_terms(self) -> None:
        """Have the next optimizer step record the products of the terms' gradients."""
        self.__dict__["_watches_terms"] = True

    def term_record(self) -> TermRecord | None:
        """The record of the step whose backward passes are done, once, if it was watched."""
        record: TermRecord | None = self.__dict__.pop("_term_record", None)
        if record is not None:
            self.__dict__.pop("_watches_terms", None)
        return record

    def _balanced_step(self, objective: Objective) -> BalancedStep | None:
        """The optimizer step of an objective's evaluation; None if no step has to be tracked."""
        policy, watched = objective.balancing, "_watches_terms" in self.__dict__ and objective is self.objective
        trainer = attached_trainer(self)
        if (policy is None and not watched) or trainer is None or not trainer.training:
            return None
        # Callbacks evaluate too, but take no step.
        if not torch.is_grad_enabled() or running_hook(self) != "training_step":
            return None
        if policy is not None:
            if policy.stateless and not watched and (not self.automatic_optimization or not self.weighs_batches):
                return None
            policy.at_epoch(trainer.current_epoch)
        steps: BalancedSteps = self.__dict__.setdefault("_balanced_steps", BalancedSteps())
        if id(objective) not in steps:
            steps[id(objective)] = BalancedStep(self, objective, watched)
        return steps[id(objective)]

    def log_objective(self, log_name: str | None, value: ObjectiveValue) -> None:
        """Log the epoch's means: of an objective's parts as ``<log_name>/<term>``, of the total as ``<log_name>``."""
        self.add_to_means(log_name, value.parts, value.weights, value.samples)


def terms_that_learn(objective: Any) -> dict[str, Any]:
    """The terms whose losses renew what they know after each training step, by name."""
    return {
        name: term
        for name, term in getattr(objective, "terms", {}).items()
        if isinstance(term, Term) and isinstance(term.loss, Loss) and type(term.loss).after_step is not Loss.after_step
    }


def _known_weights(policy: Balancing, losses: Tensor) -> Tensor | None:
    """A policy's weights of the terms outside of a step; a policy of gradients has none."""
    return None if policy.reads == "gradients" else policy.weights(losses)


class _Weigh:
    """Scales a term's value to its share of the mean over processes and batches, for one evaluation of an objective."""

    def __init__(self, module: ObjectiveMixin, objective: Objective) -> None:
        self._module = module
        self._together = bool(module.gather_batches) and world_size() > 1 and not module.evaluates
        self._batches = module.weighs_batches
        # Under manual optimization two objectives may belong to two steps, or to one.
        self._owner = None if module.automatic_optimization else id(objective)
        self._own: list[Count] = []
        self._all: list[Count] = []

    def __call__(self, term: Term, part: Tensor, tensors: Mapping[str, Any]) -> Weighed:
        """The share, and this process's samples in the mean."""
        own = term.count(tensors, self._own)
        if own is None:
            one = torch.ones((), device=part.device)
            return Weighed(self._of_step(part, Count(one, "batches", 1)), one)
        if not self._together and not self._batches:
            self._own.append(own)
            return Weighed(part, own.samples)
        # Terms with the same count share one exchange between processes.
        all_of = next((other for other in self._all if own.is_of_same(other)), None)
        if all_of is None:
            all_of = own._replace(samples=all_processes(own.samples))
            self._own.append(own)
            self._all.append(all_of)
        samples = own.samples
        if self._together:
            samples = all_of.samples / world_size()
            if not term.batch_coupled:
                part = part * (own.samples / torch.where(samples > 0, samples, 1.0)).to(part.dtype)
        return Weighed(self._of_step(part, all_of), samples)

    def _of_step(self, part: Tensor, count: Count) -> Tensor:
        if not self._batches:
            return part
        return self._module.share_of_step(part, count._replace(kind=(self._owner, count.kind)))
