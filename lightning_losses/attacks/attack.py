"""The contract of an attack: inputs and classes in, attacked inputs out."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import KW_ONLY
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_losses.attacks.attacking import BatchNormMode, attacking
from lightning_losses.attacks.balls import into_box
from lightning_losses.networks.calls import logits_of
from lightning_losses.numerics.checks import check_floating, check_tensor
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.row_generator import Randomness, RowGenerator
from lightning_losses.numerics.settings import Declared, Seed

# What inputs may lie outside of their bounds, as a share of the range: the rounding of half precision.
_ROUNDING = 1e-2
Network = Callable[[Tensor], Any]


class Attack(Declared):
    """Base of the attacks: small changes of inputs, so that a network tells their class no more.

    An attack changes inputs alone. Given a module, it enters `attacking` by itself: parameters, their gradients,
    buffers and random states stay as they are, to the bit. It works within a training step, autocast, ``no_grad`` and
    the inference mode of Lightning's validation.

    Args:
        bounds: the range of the data, before any normalisation; None where they have none, as signals. Inputs may lie
            outside by a hundredth of the range, as rounding brings about, and are clipped before they are attacked.
        mean, std: by which the given inputs were normalised, one number or one for each channel (dimension 1), as
            ``(x - mean) / std``; None for inputs in `bounds`. Balls and bounds are those before normalisation.
        batch_norm: see `attacking`.
        ignore_index: rows with this target stay as they are.
        seed: where an attack that is given no generator begins to draw, anew in every call.

    Shapes:
        inputs: [rows, ...] floating point; target: [rows] class indices; returns attacked inputs like `inputs`.

    Raises:
        ValueError: inputs or a target of another kind; inputs outside of `bounds`; a network whose logits are not
            [rows, C], have no gradient by its inputs, or hold NaN.
    """

    name = "attack"

    _: KW_ONLY
    bounds: tuple[float, float] | None = (0.0, 1.0)
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    batch_norm: BatchNormMode = "eval"
    ignore_index: int = -100
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds, mean, std = (self._numbers(name) for name in ("bounds", "mean", "std"))
        if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
            raise ValueError(f"{self.name}: bounds={bounds} came; give the least and the largest number, or None.")
        if (mean is None) != (std is None) or len(mean or ()) != len(std or ()):
            raise ValueError(f"{self.name}: mean={mean} came with std={std}; give both, of one length.")
        if not all(map(math.isfinite, (*(mean or ()), *(std or ())))):
            raise ValueError(f"{self.name}: mean={mean} came with std={std}; give finite numbers.")
        if not all(value > 0 for value in std or ()):
            raise ValueError(f"{self.name}: std={std} came; give numbers above 0.")
        self.bounds, self.mean, self.std = bounds and (bounds[0], bounds[1]), mean, std

    def __call__(
        self,
        network: Network,
        inputs: Float[Tensor, "rows ..."],
        target: Int[Tensor, " rows"],
        generator: Randomness | None = None,
    ) -> Float[Tensor, "rows ..."]:
        """The attacked inputs, without gradient.

        Args:
            network: what is attacked: a module, or a function from inputs to logits [rows, C], within `attacking`.
            inputs: [rows, ...] as the network takes them.
            target: [rows] the true classes.
            generator: draws random starts, a `RowGenerator` those of each row by itself; None draws the same in every
                call.
        """
        self._check(inputs, target, generator)
        if not inputs.numel():
            return inputs.detach().clone()
        if isinstance(network, nn.Module):
            self.check_module(network)
        own = attacking(network, self.batch_norm) if isinstance(network, nn.Module) else nullcontext(network)
        with torch.inference_mode(False), torch.enable_grad(), own as victim:
            # Tensors of inference mode can't be part of a graph; their copies can.
            # Labels of images often come as bytes, which don't index, and where -100 is 156.
            given, labels = inputs.detach().clone(), target.long().clone()
            kept = labels != self.ignore_index
            wide = full_precision(given)
            # Once a call: a tensor of Python's numbers waits for the device.
            std, mean = self._channels("std", wide), self._channels("mean", wide)

            def normalised(x: Tensor) -> Tensor:
                return (x if mean is None or std is None else (x - mean) / std).to(given.dtype)

            clean = wide if mean is None or std is None else wide * std + mean
            self._check_bounds(clean[kept])
            indices = labels.masked_fill(~kept, 0)
            classes = self._least_classes(indices)
            attacked = self.perturb(
                lambda x: self._logits(victim, normalised(x), classes),
                into_box(clean, self.bounds),
                indices,
                kept,
                generator or torch.Generator().manual_seed(self.seed),
            ).detach()
            self._check_numbers(attacked, kept)
            kept = kept.view(-1, *[1] * (given.ndim - 1))
            return torch.where(kept & (attacked != clean), normalised(attacked), given)

    @abstractmethod
    def perturb(
        self,
        network: Callable[[Tensor], Float[Tensor, "rows classes"]],
        clean: Float[Tensor, "rows ..."],
        target: Int[Tensor, " rows"],
        kept: Bool[Tensor, " rows"],
        generator: Randomness,
    ) -> Float[Tensor, "rows ..."]:
        """The attacked inputs; what is not kept is anything.

        Args:
            network: from unnormalised inputs to logits; each of its calls is a pass of the attacked network.
            clean: [rows, ...] unnormalised, within the bounds, at least in float32.
            target: [rows] class indices; 0 where not kept.
            kept: [rows] which are attacked.
            generator: what random numbers are drawn with.
        """

    def check_module(self, network: nn.Module) -> None:
        """Raise ``ValueError`` for a module that these settings don't fit."""

    def _logits(self, network: Network, inputs: Tensor, classes: int) -> Tensor:
        logits = logits_of(f"{self.name}: the network", network(inputs))
        if logits.ndim != 2 or len(logits) != len(inputs) or logits.shape[1] < max(classes, 2):
            raise ValueError(
                f"{self.name}: the network gave logits of shape {list(logits.shape)} for {len(inputs)} rows and a "
                f"target up to {classes - 1}; give one that returns [rows, C], with C of at least {max(classes, 2)}."
            )
        return logits

    def _least_classes(self, target: Tensor) -> int:
        least, most = (int(end) for end in target.aminmax())
        if least < 0:
            raise ValueError(
                f"{self.name}: target holds {least}, which is no class; give {self.ignore_index} to rows to ignore, or "
                "another ignore_index."
            )
        return most + 1

    def _numbers(self, name: str) -> tuple[float, ...] | None:
        """A setting of one number or several, which configurations give as lists."""
        values = getattr(self, name)
        try:
            return None if values is None else tuple(map(float, values if isinstance(values, Iterable) else [values]))
        except (TypeError, ValueError):
            raise ValueError(f"{self.name}: {name}={values!r} came; give numbers.") from None

    def _check(self, inputs: Any, target: Any, generator: Any) -> None:
        if isinstance(inputs, Tensor) and not inputs.is_floating_point():
            raise ValueError(
                f"{self.name}: inputs has dtype {inputs.dtype}; give floating-point inputs, such as images over 255."
            )
        check_floating(self.name, "inputs", inputs)
        check_tensor(self.name, "target", target)
        kind = target.dtype.is_floating_point or target.dtype.is_complex or target.dtype == torch.bool
        if kind or inputs.ndim < 2 or target.shape != inputs.shape[:1]:
            raise ValueError(
                f"{self.name}: inputs of shape {list(inputs.shape)} came with a target of shape {list(target.shape)} "
                f"and dtype {target.dtype}; give inputs [rows, ...] and a class index for each row."
            )
        if not isinstance(generator, Randomness | None):
            raise ValueError(
                f"{self.name}: generator came as a {type(generator).__name__}; give a torch.Generator, a RowGenerator "
                "or None."
            )
        if isinstance(generator, RowGenerator) and len(generator.keys) != len(inputs):
            raise ValueError(
                f"{self.name}: a RowGenerator of {len(generator.keys)} keys came with {len(inputs)} rows; give a key "
                "for each row."
            )

    def _check_bounds(self, clean: Tensor) -> None:
        if self.bounds is None or not len(clean):
            return
        (low, high), (least, most) = self.bounds, (float(end) for end in clean.aminmax())
        slack = _ROUNDING * (high - low)
        if least < low - slack or most > high + slack:
            raise ValueError(
                f"{self.name}: inputs from {least:.4g} to {most:.4g} came with bounds={self.bounds}; give the mean and "
                "std by which they were normalised, their own bounds, or bounds=None."
            )

    def _check_numbers(self, attacked: Tensor, kept: Tensor) -> None:
        # One wait for the device, after all passes.
        if broken := int((attacked.flatten(1).isnan().any(dim=1) & kept).sum()):
            raise ValueError(
                f"{self.name}: the inputs, the network's logits or their gradient hold NaN in {broken} of "
                f"{len(attacked)} rows; find the layer that makes it, under autocast perhaps by an overflow."
            )

    def _channels(self, name: str, inputs: Tensor) -> Tensor | None:
        values: tuple[float, ...] | None = getattr(self, name)
        if values is None:
            return None
        if len(values) not in (1, inputs.shape[1]):
            raise ValueError(
                f"{self.name}: {name}={values} came with inputs of shape {list(inputs.shape)}; give one number, or one "
                "for each channel."
            )
        return inputs.new_tensor(values).view(-1, *[1] * (inputs.ndim - 2))


def gradient_by_inputs(who: str, output: Tensor, inputs: Tensor, above: Tensor) -> Tensor:
    """The gradient of ``<above, output>`` by a network's inputs.

    Raises:
        ValueError: an output that does not depend on the inputs differentiably.
    """
    gradient = None
    if output.requires_grad:
        (gradient,) = torch.autograd.grad(output, inputs, above, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"{who}: the network's logits have no gradient by its inputs; give one that detaches nothing on the way "
            "and runs without torch.no_grad."
        )
    return gradient
