"""A module whose values are fitted once: kept in their precision, saved and loaded without unpickling."""

import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_losses.environment.atomic_files import replacing


class FittedModule(nn.Module):
    """Base of what is fitted on held-out data: its learned values are buffers, empty until the fit.

    A fitted one moves with its module between devices, is saved in checkpoints and exports with `torch.export`. The
    buffers keep the precision of what they were fitted to, even if the module is converted to another precision.

    Attributes:
        learned: the names of the buffers that the fit fills.
    """

    learned: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        for name in self.learned:
            self.register_buffer(name, torch.empty(0))

    @property
    def fitted(self) -> bool:
        """Whether the fit or a loaded state has filled the buffers."""
        return all(self.value_of(name).numel() > 0 for name in self.learned)

    def value_of(self, name: str) -> Tensor:
        """The learned values, by name; empty before the fit."""
        value: Tensor = getattr(self, name)  # get_buffer would be no part of an exported graph before torch 2.7
        return value

    def keep(self, values: dict[str, Tensor], like: Tensor) -> None:
        """Fill the buffers with values of their own, on the device and in the precision of a tensor."""
        for name, value in values.items():
            # Its own: not a part of what it was solved in, nor of what it was fitted to.
            own = value.detach().to(device=like.device, dtype=like.dtype)
            setattr(self, name, own.clone(memory_format=torch.contiguous_format))

    def check_fitted(self, given: str = "logits, target") -> None:
        """Raise ``ValueError`` unless the buffers are filled."""
        if not self.fitted:
            raise ValueError(
                f"{type(self).__name__}: it is not fitted; call fit({given}) on held-out data, or load a saved one."
            )

    def save(self, path: str | Path) -> None:
        """Write the learned values and the options as one safetensors file."""
        if not self.fitted:
            raise ValueError(f"{type(self).__name__}: it is not fitted; there is nothing to save yet.")
        tensors = {name: self.value_of(name).detach().cpu().contiguous() for name in self.learned}
        with replacing(Path(path)) as partial:
            save_file(
                tensors, partial, metadata={"calibrator": type(self).__name__, "options": json.dumps(self.options)}
            )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a calibrator that `save` wrote; `Calibrator.load` returns whichever kind the file holds.

        Raises:
            ValueError: a file that is damaged or holds no calibrator.
        """
        try:
            return cls._load(path)
        except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise ValueError(f"{cls.__name__}: {path} is no calibrator that can be read ({reason}).") from None

    @classmethod
    def _load(cls, path: str | Path) -> Self:
        home = importlib.import_module("lightning_losses.calibrators")
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            name = metadata.get("calibrator", "")
            kind = getattr(home, name, None) if name in home.__all__ else None
            if not (isinstance(kind, type) and issubclass(kind, cls)):
                raise ValueError(
                    f"{cls.__name__}: {path} holds {name or 'no calibrator'!r}; give a file that "
                    f"{cls.__name__}.save wrote."
                )
            calibrator: Self = kind(**json.loads(metadata["options"]))
            calibrator.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        return calibrator

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def extra_repr(self) -> str:
        """The options, and whether it is fitted."""
        return ", ".join([*(f"{name}={value!r}" for name, value in self.options.items()), f"fitted={self.fitted}"])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Rounding the buffers to another precision would change the map: edges would no longer equal scores.
        learned = {name: self.get_buffer(name) for name in self.learned}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, fitted in learned.items():
            moved = self.get_buffer(name)
            if moved.dtype != fitted.dtype:
                setattr(self, name, fitted.to(moved.device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Buffers have no shape before the fit, so they take the shapes in the state.
        for name in self.learned:
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor):
                setattr(self, name, torch.empty_like(value, device=self.value_of(name).device))
        super()._load_from_state_dict(state_dict, prefix, *args)
