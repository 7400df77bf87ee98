"""A teacher that a student holds: frozen, in evaluation mode, not copied with the student."""

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class HeldTeacher:
    """Holds a teacher without making it a submodule of the student.

    Its parameters require no gradients, and it is in evaluation mode. Modules and parameters that it shares with the
    student stay the student's, for example if the teacher is the student's own network without its adapter; they are in
    evaluation mode only while the teacher runs. A deep copy of the student has the same teacher, not a copy, unless the
    teacher moves or shares modules.

    Args:
        network: the teacher.

    Attributes:
        moves: whether it changes with the student, as a moving average does.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.moves = False
        self._shared: list[nn.Module] = []
        # Weak references: sharding the teacher replaces its parameters, which must then be freed.
        self._asked = [(weakref.ref(parameter), parameter.requires_grad) for parameter in network.parameters()]
        self._modes = [(weakref.ref(part), part.training) for part in network.modules()]
        network.eval().requires_grad_(False)

    def __getstate__(self) -> dict[str, Any]:
        return {"network": self.network, "moves": self.moves, "_shared": self._shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Already frozen, and shared modules already returned to the student.
        self.__dict__.update(state, _asked=[], _modes=[])

    def __deepcopy__(self, memo: dict[int, Any]) -> "HeldTeacher":
        if not self.moves and not self._shared:
            return self
        twin = object.__new__(HeldTeacher)
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def leave_to(self, student: nn.Module) -> None:
        """Return shared modules to the student."""
        parts, parameters = {id(part) for part in student.modules()}, {id(one) for one in student.parameters()}
        for reference, training in self._modes:
            if (part := reference()) is not None and id(part) in parts and part not in self._shared:
                part.training = training
                self._shared.append(part)
        for of, asked in self._asked:
            if (parameter := of()) is not None and id(parameter) in parameters:
                parameter.requires_grad_(asked)
        # Only once: from now on the student decides.
        self._asked = [(of, asked) for of, asked in self._asked if id(of()) not in parameters]

    @contextmanager
    def in_evaluation(self) -> Iterator[nn.Module]:
        """Within this context the whole teacher is in evaluation mode."""
        training = [part for part in self._shared if part.training]
        for part in training:
            part.training = False
        try:
            yield self.network
        finally:
            for part in training:
                part.training = True

    def is_in(self, value: Any) -> bool:
        """Whether a value is a part of the teacher, or contains one."""
        if isinstance(value, nn.Module):
            own = {id(part) for part in self.network.modules()} - {id(part) for part in self._shared}
            return any(id(part) in own for part in value.modules())
        if isinstance(value, dict):
            return any(map(self.is_in, value.values()))
        return isinstance(value, list | tuple) and any(map(self.is_in, value))
