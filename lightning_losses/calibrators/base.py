"""The interface of all post-hoc calibrators: fit once, then map logits to calibrated logits."""

import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_losses.environment.atomic_files import replacing
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision


class Calibrator(nn.Module):
    """Base of the post-hoc calibrators: `fit(logits, target)` once, then `forward(logits)` gives calibrated logits.

    The softmax of the output of `forward` (the sigmoid, for binary logits of shape [N]) is the calibrated probability.
    The learned values are buffers, empty until `fit`: an unfitted calibrator raises an error. A fitted one moves with
    its module between devices, is saved in checkpoints and exports with `torch.export`. The buffers keep the precision
    of the logits in `fit`, even if the module is converted to another precision.

    A subclass names its buffers in `learned` and implements two methods. `_fit` receives checked float rows and class
    indices, which it must not change, with gradients enabled, and returns the buffers' values. `_calibrate` maps logits
    to logits.

    Attributes:
        learned: the names of the buffers that `fit` fills.
        keeps_argmax: whether the calibrated prediction always equals the uncalibrated one, so that accuracy can't
            change, except if rounding makes close logits equal.
        takes_binary: whether binary logits of shape [N], one score per sample, are accepted too.
        views: the transformed views of a sample, whose logits follow the sample's own, [..., 1 + V, C]; usually none.
    """

    learned: ClassVar[tuple[str, ...]] = ()
    keeps_argmax: ClassVar[bool] = False
    takes_binary: ClassVar[bool] = False
    views: tuple[str, ...] = ()

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        for name in self.learned:
            self.register_buffer(name, torch.empty(0))

    @property
    def fitted(self) -> bool:
        """Whether `fit` or a loaded state has filled the buffers."""
        return all(self.value_of(name).numel() > 0 for name in self.learned)

    def value_of(self, name: str) -> Tensor:
        """The learned values, by name; empty before the fit."""
        value: Tensor = getattr(self, name)  # get_buffer would be no part of an exported graph before torch 2.7
        return value

    def fit(self, logits: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"]) -> Self:
        """Learn the calibration map from held-out logits, deterministically, also within `torch.inference_mode`.

        Args:
            logits: [..., C] scores of data that the model was not trained on; [N] where binary logits are accepted.
            target: [...] int64 class indices; rows with `ignore_index` are left out.

        Returns:
            The calibrator itself.

        Raises:
            ValueError: shapes or dtypes that do not fit, only one class, NaN or inf logits, targets outside the
                classes, no rows.
        """
        with torch.inference_mode(False), torch.enable_grad():
            rows, labels = self._rows(logits, target)
            for name, value in self._fit(rows, labels).items():
                # A copy that shares memory with neither the solver nor the logits.
                own = value.detach().to(device=rows.device, dtype=rows.dtype)
                setattr(self, name, own.clone(memory_format=torch.contiguous_format))
        return self

    def forward(self, logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        """Calibrated logits; half-precision logits become float32, and a class that is masked by -inf stays masked."""
        if not self.fitted:
            raise ValueError(
                f"{type(self).__name__}: it is not fitted; call fit(logits, target) on held-out data, or "
                "load a saved one."
            )
        check_floating(type(self).__name__, "logits", logits)
        if self._classes is not None and (logits.ndim == 0 or logits.shape[-1] != self._classes):
            raise ValueError(
                f"{type(self).__name__}: logits of shape {list(logits.shape)} came, but it was fitted on "
                f"{self._classes} classes; give [..., {self._classes}]."
            )
        calibrated = self._calibrate(full_precision(logits))
        return calibrated if self._single else calibrated.masked_fill(self.original(logits) == -torch.inf, -torch.inf)

    def original(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*rows classes"]:
        """The samples' own logits, without those of their views."""
        return logits[..., 0, :] if self.views else logits

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
        except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
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

    @property
    def _single(self) -> bool:
        """Whether it was certainly fitted on binary logits of shape [N], which can't be masked."""
        return False

    @property
    def _classes(self) -> int | None:
        """The number of classes in the fit; None if it accepts any number."""
        return None

    @property
    def _precision(self) -> torch.dtype:
        """The precision of the logits in `fit`."""
        return self.get_buffer(self.learned[0]).dtype

    def _widened(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Logits in the higher of their precision and that of the fit."""
        return logits.to(torch.promote_types(logits.dtype, self._precision))

    def _fit(self, logits: Float[Tensor, "*shape"], target: Int[Tensor, " rows"]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _calibrate(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        raise NotImplementedError

    def _rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of finite logits in full precision and their class indices, without the ignored ones."""
        name = type(self).__name__
        check_floating(name, "logits", logits)
        binary = self.takes_binary and logits.ndim == 1
        if logits.ndim < 2 and not binary:
            raise ValueError(
                f"{name}: logits have shape {list(logits.shape)}; give [N, C]"
                f"{' or, for two classes, [N]' if self.takes_binary else ''}."
            )
        if not binary and logits.shape[-1] < 2:
            raise ValueError(
                f"{name}: logits of shape {list(logits.shape)} have fewer than two classes, which leaves nothing to "
                f"calibrate; give [N, C]{', or one score per sample flattened to [N]' if self.takes_binary else ''}."
            )
        if not isinstance(target, Tensor):
            raise ValueError(f"{name}: target is a {type(target).__name__}; give one int64 class index per row.")
        one_score = self.takes_binary and logits.numel() == target.numel()
        scores = ", or one score per sample: logits.flatten() and target.flatten()" if one_score else ""
        if target.dtype != torch.int64 or target.shape != (logits.shape if binary else logits.shape[:-1]):
            raise ValueError(
                f"{name}: target of dtype {target.dtype} and shape {list(target.shape)} came with logits "
                f"of shape {list(logits.shape)}; give one int64 class index per row{scores}."
            )
        logits, target = full_precision(logits.detach()), target.detach()
        if not binary:
            logits, target = logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
        kept = target != self.ignore_index
        if not bool(kept.all()):
            logits, target = logits[kept], target[kept]
        if len(target) == 0:
            raise ValueError(f"{name}: no rows came to fit on; give at least one sample that is not ignore_index.")
        classes = 2 if binary else logits.shape[-1]
        if int(target.min()) < 0 or int(target.max()) >= classes:
            raise ValueError(
                f"{name}: targets from {int(target.min())} to {int(target.max())} came with {classes} "
                f"classes; give 0 to {classes - 1}, or ignore_index={self.ignore_index}."
            )
        # NaN propagates to the minimum and the maximum: one pass, no copy.
        if not bool(torch.isfinite(torch.stack(torch.aminmax(logits))).all()):
            raise ValueError(f"{name}: logits hold NaN or inf; fit on finite logits, and leave masked classes out.")
        return logits, target

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
