"""The base of callbacks: checked settings, and the state that checkpoints hold."""

from dataclasses import field
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_losses.numerics.settings import Declared


class DeclaredCallback(Declared, Callback):
    """Base of the callbacks that are declared by their settings and keep state in checkpoints.

    A fit from the start begins with the state from before the first fit, not with that of another network.

    Attributes:
        kept: the names of the attributes that go into checkpoints.
    """

    kept: ClassVar[tuple[str, ...]] = ()
    _before: dict[str, Any] | None = field(init=False, default=None)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget an earlier fit; a checkpoint's state comes later."""
        if stage == "fit" and trainer.global_step == 0:
            if self._before is None:
                self._before = self.state_dict()
            else:
                self.load_state_dict(self._before)

    def state_dict(self) -> dict[str, Any]:
        """What is kept."""
        return {name: plain_copy(getattr(self, name)) for name in self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        for name in self.kept:
            setattr(self, name, plain_copy(state_dict[name]))


def plain_copy(value: Any) -> Any:
    """Copies in plain containers, without named tuples, so that they load without unpickling."""
    if isinstance(value, Tensor):
        # A copy, so that later changes in place don't reach the checkpoint, or the other way round.
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: plain_copy(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(plain_copy, value))
    return list(map(plain_copy, value)) if isinstance(value, list) else value
