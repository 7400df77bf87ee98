"""State that networks change as they are called, when a batch passes through them in parts: it moves once."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm


class StateOfParts:
    """Holds the buffers that modules in training mode move as they are called, while a batch passes in parts.

    Each part begins with the state that was there before the batch, also when it passes again; behind the last part
    the state moves once. The running statistics of batch and instance norm move by the mean over the parts, weighted
    by samples, and the vectors of spectral norm, which don't depend on the inputs, as they do in a single call.

    Args:
        name: what errors begin with.
        modules: all modules that the network calls.

    Raises:
        ValueError: behind the last part, further buffers that moved more than once; in a part of one sample, a batch
            norm that needs more.
    """

    def __init__(self, name: str, modules: Sequence[nn.Module]) -> None:
        self.name = name
        self.training = [module for module in modules if module.training]
        self.moving = [
            buffer
            for module in self.training
            if isinstance(module, _NormBase | _SpectralNorm) or _is_spectral(module)
            for buffer in module.buffers(recurse=False)
        ]
        self.before = [buffer.clone() for buffer in self.moving]
        self.behind: list[tuple[int, list[Tensor]]] = []
        self.calls_that_moved: dict[str, int] = {}

    @contextmanager
    def first_pass(self, rows: int) -> Iterator[None]:
        """A part's first pass; what it makes of the state is kept for `move_once`."""
        _set(self.moving, self.before)
        others = self._others()
        stamps = {name: buffer._version for name, buffer in others.items()}
        try:
            yield
        except ValueError as error:
            if rows == 1 and "more than 1 value per channel" in str(error):
                raise ValueError(
                    f"{self.name}: a part of a single sample came to a batch norm, which needs several; set a "
                    "micro_batch of at least 3, so that no part is a single sample."
                ) from error
            raise
        self.behind.append((rows, [buffer.clone() for buffer in self.moving]))
        for name, buffer in self._others().items():
            before = others.get(name)
            if before is None or buffer is not before or buffer._version != stamps[name]:
                self.calls_that_moved[name] = self.calls_that_moved.get(name, 0) + 1

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """What a checkpoint calls its first pass and its second in."""
        return nullcontext(), _Again(self)

    def move_once(self) -> None:
        """Give the buffers the state behind the whole batch."""
        # A buffer that moves in a single part is filled once, like a cache.
        if moved := [name for name, calls in self.calls_that_moved.items() if calls > 1]:
            raise ValueError(
                f"{self.name}: micro_batch came with a network whose {', '.join(moved)} changed with every part, and "
                "it can't be said what the whole batch would make of it; set micro_batch=None."
            )
        rows = sum(part for part, _ in self.behind)
        first = self.behind[0][1]
        for place, buffer in enumerate(self.moving):
            mean = first[place]
            if mean.is_floating_point():
                # By differences, so that values that are equal in all parts stay as they are.
                mean = mean + sum(part / rows * (state[place] - first[place]) for part, state in self.behind if part)
            _set([buffer], [mean])

    def _others(self) -> dict[str, Tensor]:
        """The buffers that `moving` does not hold, as "Module.buffer"."""
        ours = {id(buffer) for buffer in self.moving}
        return {
            f"{type(module).__name__}.{name} (module {number})": buffer
            for number, module in enumerate(self.training)
            for name, buffer in module.named_buffers(recurse=False)
            if id(buffer) not in ours
        }


def _is_spectral(module: nn.Module) -> bool:
    """Whether torch's older spectral norm, which is a hook, keeps its vectors in the module."""
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())


class _Again(AbstractContextManager[None]):
    """A part's second pass, which leaves the state as it is; a backward pass that comes again enters it again."""

    def __init__(self, state: StateOfParts) -> None:
        self.state = state
        self.now: list[Tensor] = []

    def __enter__(self) -> None:
        self.now = [buffer.clone() for buffer in self.state.moving]
        _set(self.state.moving, self.state.before)

    def __exit__(self, *error: object) -> None:
        _set(self.state.moving, self.now)


@torch.no_grad()
def _set(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)
