"""A batch whose gradient is taken more than once in an optimizer step: what a module must not do again."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_losses.environment.lightning_internals import takes_step

if TYPE_CHECKING:
    import lightning as L

Value = TypeVar("Value")
# In the module's dictionary, past nn.Module's own bookkeeping.
_NAME = "_repeated_batch"


@dataclass(eq=False)
class RepeatedBatch:
    """A batch that a callback runs again before the optimizer's step.

    The first pass counts: its values are logged, and what the module keeps of samples comes from it. A further pass
    only gives a gradient, of the same function of the weights.

    Attributes:
        again: whether this is a further pass.
        last: whether it is the last batch of the optimizer step; known in a further pass alone.
        read: what the first pass read of a state that it then changed, for the further passes.
    """

    again: bool = False
    last: bool = False
    read: dict[Hashable, Any] = field(default_factory=dict)


@contextmanager
def running(module: "L.LightningModule", batch: RepeatedBatch) -> Iterator[None]:
    """Within this context a module runs a batch that is repeated."""
    module.__dict__[_NAME] = batch
    try:
        yield
    finally:
        del module.__dict__[_NAME]


def runs_again(module: "L.LightningModule") -> bool:
    """Whether a module runs a batch for a further gradient: it then logs nothing and remembers nothing."""
    batch: RepeatedBatch | None = module.__dict__.get(_NAME)
    return batch is not None and batch.again


def read_once(module: "L.LightningModule", name: Hashable, read: Callable[[], Value]) -> Value:
    """A value that the step changes after it was read; every further pass is told the first one's."""
    batch: RepeatedBatch | None = module.__dict__.get(_NAME)
    if batch is None:
        return read()
    if name not in batch.read:
        batch.read[name] = read()
    value: Value = batch.read[name]
    return value


def closes_step(module: "L.LightningModule") -> bool:
    """Whether the batch that is under way is the optimizer step's last."""
    batch: RepeatedBatch | None = module.__dict__.get(_NAME)
    return batch.last if batch is not None and batch.again else takes_step(module.trainer)
