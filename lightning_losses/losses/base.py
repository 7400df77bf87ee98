"""The contract of all losses.

A loss is one declaration: its fields are its settings, annotated with their ranges, and one method holds the
mathematics. `Loss` makes a dataclass of every subclass. Losses with the same inputs share a base class in `kinds`.
"""

import inspect
import re
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self, dataclass_transform
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.rows import labelled_rows
from lightning_losses.numerics.settings import check_settings, settings

Status = Literal["confirmed", "paper", "experimental"]

_LIVING: WeakValueDictionary[int, "Loss"] = WeakValueDictionary()


def living(identity: int) -> "Loss":
    """The loss with this ``id``; compiled graphs refer to losses by it."""
    return _LIVING[identity]


def forward_inputs(function: Callable[..., Any]) -> dict[str, bool]:
    """The tensors that a loss takes, by name: True for the required ones."""
    parameters = inspect.signature(function).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default is inspect.Parameter.empty for p in parameters if p.kind in named and p.name != "self"}


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class Loss(nn.Module, ABC):
    """Base of the losses: tensors in, one value out; no Lightning, no configuration, no process group.

    The annotated fields of a subclass are its settings; `lightning_losses.numerics.settings` explains the annotations.
    `__post_init__` makes layers and buffers and checks settings against each other, after ``super().__post_init__()``.

    The names of `forward`'s arguments come from the glossary (`logits`, `target`, `teacher_logits`, ...): an
    `Objective` feeds them by name. An argument with a default is optional.

    Attributes:
        batch_coupled: True if the value of one sample depends on the others in the batch; a mixin then gathers the
            batch of all processes first.
        status: "confirmed" against the authors' code, from the "paper" alone, or "experimental".
        evidence: the code that its numbers are compared with, a repository as owner/name, or the reason why there is
            none.
    """

    batch_coupled: ClassVar[bool] = False
    # The default claims nothing.
    status: ClassVar[Status] = "experimental"
    evidence: ClassVar[str] = ""
    _identifier: ClassVar[str] = "loss"

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Initialise the module before the dataclass's constructor sets its fields."""
        loss = super().__new__(cls)
        nn.Module.__init__(loss)
        _LIVING[id(loss)] = loss
        return loss

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ours = cls.__module__.startswith("lightning_losses.")
        cls._identifier = (
            cls.__module__.rpartition(".")[2] if ours else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        )
        declared: type = dataclass(eq=False, repr=False)(cls)
        for name in {setting.name for setting in fields(declared)} & vars(cls).keys():
            # A default that stayed on the class would hide the buffer that a setting becomes.
            delattr(cls, name)

    def __post_init__(self) -> None:
        check_settings(self, self._identifier)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a buffer as torch does, but not in half precision; see `_apply`."""
        wide = tensor if tensor is None or is_lazy(tensor) else full_precision(tensor)
        super().register_buffer(name, wide, persistent)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the module as torch does, but keep its own buffers out of half precision.

        In half precision a running average would round back to its old value, and the edges of bins would move.
        """
        own = {name: buffer for name, buffer in self._buffers.items() if buffer is not None and not is_lazy(buffer)}
        if any(buffer.dtype == torch.float64 for buffer in own.values()) and fn(torch.empty(0)).device.type == "mps":
            # Which has no double precision.
            own = {name: buffer.float() if buffer.is_floating_point() else buffer for name, buffer in own.items()}
            self._buffers.update(own)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in own.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = full_precision(buffer).to(moved.device)
        return self

    @classmethod
    def inputs(cls) -> dict[str, bool]:
        """The tensors that `forward` takes, by name: True for the required ones."""
        return forward_inputs(cls.forward)

    @classmethod
    def identifier(cls) -> str:
        """The snake_case id: the name of the method's file, configuration, test and catalogue line."""
        return cls._identifier

    def after_step(self, *arguments: Any, **tensors: Any) -> None:
        """Renew what the loss knows of the training set, from the tensors that it took in a step.

        `ObjectiveMixin` calls it once after each training step, with the batch of all processes, where a loss overrides
        it. Evaluating a loss changes nothing.
        """

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The divisor of reduction "mean": the number of samples that are not ignored.

        The means of processes with different counts are weighed by it. A loss with another average overrides it.
        """
        target, ignore_index = tensors.get("target"), getattr(self, "ignore_index", None)
        if target is not None and ignore_index is not None:
            return labelled_rows(target, ignore_index).sum()
        first = tensors.get("logits", next(iter(tensors.values())))
        rows = first.shape[:-1].numel() if "logits" in tensors else len(first)
        # `full` fills on the device; `tensor` would copy the number there and synchronise.
        return torch.full((), rows, device=first.device)

    def extra_repr(self) -> str:
        """The settings, as arguments of the constructor."""
        values = {setting.name: getattr(self, setting.name) for setting in settings(type(self))}
        return ", ".join(f"{name}={value!r}" for name, value in values.items() if not isinstance(value, nn.Module))
