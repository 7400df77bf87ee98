"""Trains one small network with many seeds at once: their weights lie in one tensor, and a step is one step of all."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from lightning_losses.data import ImageDataset
from lightning_losses.experiments.training.training import Trained, Training
from lightning_losses.modules import Classifier, Distiller
from lightning_losses.samplers.resumable import ResumableSampler
from lightning_losses.teachers import CachedLogits

# Each optimizer works elementwise, so that stacked weights move as the weights of single networks do.
_ELEMENTWISE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop,
                torch.optim.SGD, torch.optim.Adagrad, torch.optim.Adamax)  # fmt: skip
# What a trainer may be told without a change of what a step is, and what changes none at these values.
_HARMLESS = {
    "_target_", "max_epochs", "enable_progress_bar", "enable_model_summary", "log_every_n_steps", "deterministic",
    "num_sanity_val_steps", "use_distributed_sampler", "check_val_every_n_epoch", "limit_val_batches", "accelerator",
    "enable_checkpointing",
}  # fmt: skip
_PLAIN = {"devices": (1,), "strategy": ("auto",), "precision": ("32-true", 32, None), "accumulate_grad_batches": (1,)}
_TENSORS = {"logits", "teacher_logits", "target"}
_RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)


def why_one_by_one(trainings: Sequence[Training], teachers: Sequence[CachedLogits] | None = None) -> str | None:
    """The reason why these trainings, which differ by seed and data, can't run at once; None if they can.

    Args:
        trainings: of one network by one objective.
        teachers: the logits of each one's teacher on its training rows.
    """
    if reason := _of_settings(trainings[0]) or _of_data(trainings):
        return reason
    first, teacher = trainings[:1], None if teachers is None else teachers[:1]
    modules = _modules(first, teacher)
    if reason := _of_module(modules[0], teacher):
        return reason
    try:
        stack = _Stack(first, modules, teacher)
        stack.step(0, stack.order(0)[:, : stack.batch_size])
    except RuntimeError as error:
        # What vmap has no rule for is known only when it is met.
        return f"its step can't be stacked ({str(error).strip().splitlines()[0][:120]})"
    return None


def train_stacked(trainings: Sequence[Training], teachers: Sequence[CachedLogits] | None = None) -> list[Trained]:
    """Train all networks at once; each equals the result of its own training up to rounding.

    First weights, the order of samples, the learning rate and the scheduled weights of terms are those of
    `Training.run`, seed by seed. The caller evaluates the last step only; nothing is logged before it, and an
    interrupted stack starts again from the beginning: stacks are for networks that train in seconds.

    Args:
        trainings: as `why_one_by_one` accepts them.
        teachers: the logits of each one's teacher on its training rows; None for objectives that take none.

    Returns:
        The networks in order; `seconds` is each one's share of the time that all took.
    """
    begun = time.perf_counter()
    modules = _modules(trainings, teachers)
    stack = _Stack(trainings, modules, teachers)
    for epoch in range(trainings[0].trainer.max_epochs):
        order = stack.order(epoch)
        for part in torch.split(order, stack.batch_size, dim=1)[: stack.batches]:
            stack.step(epoch, part)
    seconds = (time.perf_counter() - begun) / len(trainings)
    return [
        Trained(training.name, training.label, network.eval().requires_grad_(False), {}, seconds)
        for training, network in zip(trainings, stack.networks(), strict=True)
    ]


class _Stack:
    """The weights, data and optimizer of trainings that go step by step together."""

    def __init__(
        self, trainings: Sequence[Training], modules: Sequence[Any], teachers: Sequence[CachedLogits] | None
    ) -> None:
        first = trainings[0]
        self.modules = modules
        self.objective = modules[0].objective
        self.total_steps, self.epochs = first.total_steps, int(first.trainer.max_epochs)
        self.batch_size, self.batches = first.datamodule.batch_size, first.batches
        data = [training.datamodule.train for training in trainings]
        self.samplers = [
            ResumableSampler(train, 1, 0, shuffle=True, seed=training.seed)
            for train, training in zip(data, trainings, strict=True)
        ]
        self.tensors = {
            "inputs": _stacked(train.inputs for train in data),
            "target": _stacked(one.target for one in data),
        }
        if teachers is not None:
            self.tensors["teacher_logits"] = _stacked(teacher.logits for teacher in teachers)
        networks = [module.network.train() for module in modules]
        parameters, _ = stack_module_state(networks)
        self.parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        self.optimizer = modules[0].make_optimizer(list(self.parameters.values()))
        make = modules[0].make_scheduler
        self.scheduler = None if make is None else make(self.optimizer)
        self.steps = 0
        self._losses = vmap(self._loss, in_dims=(0, 0, None), randomness="error")

    def order(self, epoch: int) -> Tensor:
        """[seeds, rows] the positions of the samples in this epoch's order."""
        for sampler in self.samplers:
            sampler.set_epoch(epoch)
        return torch.tensor([list(sampler) for sampler in self.samplers])

    def step(self, epoch: int, positions: Tensor) -> None:
        """One step of every network, on the samples at its row of positions."""
        rows = torch.arange(len(positions))[:, None]
        batch = {name: tensor[rows, positions] for name, tensor in self.tensors.items()}
        clock = {
            "step": self.steps,
            "epoch": epoch,
            "progress": min(self.steps / self.total_steps, 1.0),
            "epoch_progress": min((epoch + 1) / self.epochs, 1.0),
        }
        # The sum's gradient by a network's weights is that of its own loss.
        torch.autograd.backward(self._losses(self.parameters, batch, clock).sum())
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.scheduler is not None:
            self.scheduler.step()
        self.steps += 1

    def networks(self) -> list[nn.Module]:
        """The networks with their weights."""
        for number, module in enumerate(self.modules):
            module.network.load_state_dict({name: value[number] for name, value in self.parameters.items()})
        return [module.network for module in self.modules]

    def _loss(self, parameters: dict[str, Tensor], batch: dict[str, Tensor], clock: Mapping[str, Any]) -> Tensor:
        logits = functional_call(self.modules[0].network, parameters, (batch["inputs"],))
        value: Float[Tensor, ""] = self.objective(**{**batch, "logits": logits}, **clock).total
        return value


def _modules(trainings: Sequence[Training], teachers: Sequence[CachedLogits] | None) -> list[Any]:
    given = [None] * len(trainings) if teachers is None else teachers
    return [training.build(teacher) for training, teacher in zip(trainings, given, strict=True)]


def _stacked(tensors: Any) -> Tensor:
    return torch.stack(list(tensors))


def _of_settings(training: Training) -> str | None:
    if training.callbacks:
        return "it has callbacks"
    if training.weights != "last":
        return f"weights={training.weights} asks for more than the last step's"
    if training.checkpoint is not None:
        return "its weights are given"
    execution = {} if training.execution is None else OmegaConf.to_container(training.execution)
    assert isinstance(execution, dict)
    if any(value for name, value in execution.items() if name != "_target_"):
        return "execution changes how its blocks are run"
    for name, value in training.trainer.items():
        key = str(name)
        if key not in _HARMLESS and value not in _PLAIN.get(key, (None,)) and key != "limit_train_batches":
            return f"trainer.{key}={value}"
    return None


def _of_data(trainings: Sequence[Training]) -> str | None:
    data = [training.datamodule for training in trainings]
    if not all(isinstance(getattr(one, "train", None), ImageDataset) for one in data):
        return "its data are no tensors in memory"
    if any(getattr(one, "views_of_train", None) is not None for one in data):
        return "its inputs are augmented"
    if any(getattr(one, "samples_per_class", None) or getattr(one, "pseudo_labels", None) for one in data):
        return "its batches are planned"
    if len({len(one.train) for one in data}) > 1:
        return "the seeds have unlike numbers of rows"
    return None


def _of_module(module: Any, teachers: Sequence[CachedLogits] | None) -> str | None:
    if type(module) not in (Classifier, Distiller):
        return f"{type(module).__name__} has a step of its own"
    taken = {name for term in module.objective.terms.values() for name in term.needs}
    if unknown := sorted(taken - _TENSORS - {"step", "epoch", "progress", "epoch_progress"}):
        return f"its objective takes {', '.join(unknown)}"
    if "teacher_logits" in taken and teachers is None:
        return "its teacher answers anew in every step"
    if module.objective.balancing is not None:
        return "its objective balances its terms"
    if module.objective.state_dict():
        return "its objective has a state"
    if next(module.network.buffers(), None) is not None or any(isinstance(part, _RANDOM) for part in module.modules()):
        return "its network has buffers or draws random numbers"
    if not isinstance(module.make_optimizer([nn.Parameter(torch.zeros(1))]), _ELEMENTWISE):
        return "its optimizer looks at more than an element"
    return None
