"""Losses of other libraries as terms of an objective: their arguments fed with tensors under our names."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_choice
from lightning_losses.numerics.probabilities import full_precision, known_somewhere
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import labelled_rows

_REDUCTIONS = ("mean", "sum")


class Adapted(Loss):
    """A loss of another library, or any function, fed with the step's tensors under their glossary names.

    It makes such a loss a term from the configuration alone. A function needs ``_partial_: true``::

        loss:
          _target_: lightning_losses.losses.adapted.Adapted
          loss:
            _target_: torchvision.ops.sigmoid_focal_loss
            _partial_: true
            gamma: 2.0
          inputs: {inputs: logits, targets: target}
          one_hot: true
          reduction: mean

    Half-precision inputs are widened to float32, and autocast is off inside, as for the library's own losses. The
    wrapped loss alone decides how to treat infinite logits, and ignored samples where it reduces by itself.

    Args:
        loss: a module or a function; its parameters are trained with the module's.
        inputs: ``{its argument: tensor of the step}``. An argument that isn't named here takes the tensor of its own
            name, or keeps its default if it has one.
        reduction: how values of single samples are reduced: "mean" or "sum". A scalar stays as it is; for a scalar,
            "mean" says that it is a mean over samples, so that processes with more samples weigh more. Samples whose
            target is the loss's `ignore_index`, if it has one, are in no mean. None for neither. The reduction of
            torch's cross-entropy is read from it, also with class weights.
        batch_coupled: whether the value of one sample depends on the others in the batch; it is then evaluated on
            the batch of all processes.
        one_hot: turn a `target` of class indices into one-hot rows, for multi-label losses; a step without `target`
            gives them as `multi_hot`, with every label known.

    Returns:
        The loss's result, reduced.

    Raises:
        ValueError: a loss that can't be called, or whose arguments can't be read; a name in `inputs` that it does not
            take; when called, a target that holds no class indices with `one_hot`, or a scalar "mean" of a loss, not
            torch's, that weighs classes.

    Example:
        >>> import torch.nn.functional as F
        >>> from lightning_losses.losses.base import forward_inputs
        >>> loss = Adapted(F.huber_loss, {"input": "logits", "target": "teacher_logits"})
        >>> forward_inputs(loss)
        {'logits': True, 'teacher_logits': True}
        >>> loss(logits=torch.zeros(2, 3), teacher_logits=torch.ones(2, 3)).item()
        0.5
    """

    def __init__(
        self,
        loss: nn.Module | Callable[..., Any],
        inputs: Mapping[str, str] | None = None,
        *,
        reduction: Literal["mean", "sum"] | None = None,
        batch_coupled: bool = False,
        one_hot: bool = False,
    ) -> None:
        super().__init__()
        if not callable(loss):
            raise ValueError(
                f"adapted: loss={loss!r} came; give a module or a function (in a configuration, with _partial_: true)."
            )
        if reduction is not None:
            check_choice("adapted", "reduction", reduction, _REDUCTIONS)
        self.loss = loss
        self.inner_name = _name(loss)
        self.reduction = reduction
        self.one_hot = one_hot
        # A class attribute elsewhere; here a setting.
        self.__dict__["batch_coupled"] = bool(batch_coupled)
        parameters = _parameters(loss, self.inner_name)
        self._sources = _sources(parameters, self.inner_name, dict(inputs or {}))
        if one_hot and not {"logits", "target"} <= set(self._sources.values()):
            raise ValueError(
                f"adapted: one_hot=True came to {self.inner_name}, which takes {', '.join(self._sources.values())}; "
                "it is for losses that take logits and target."
            )
        # The target of samples that the loss leaves out of its mean.
        default = parameters["ignore_index"].default if "ignore_index" in parameters else None
        self.ignore_index = getattr(loss, "ignore_index", default)
        # `forward_inputs` reads this signature: here each instance has its own tensors, not each class.
        kind = inspect.Parameter.KEYWORD_ONLY
        names: dict[str, Any] = dict.fromkeys(self._sources.values(), inspect.Parameter.empty)
        if one_hot:
            names |= {"target": None, "multi_hot": None}
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(name, kind, default=default) for name, default in names.items()]
        )

    def forward(self, **tensors: Any) -> Tensor:
        """Evaluate the loss on the step's tensors; see the class."""
        given = self.arguments(tensors)
        device = next((value.device.type for value in given.values() if isinstance(value, Tensor)), "cpu")
        try:
            with torch.autocast(device, enabled=False):
                value = self.loss(**given)
        except AssertionError as error:
            shapes = ", ".join(f"{name} {list(v.shape)}" for name, v in given.items() if isinstance(v, Tensor))
            raise ValueError(
                f"adapted: {self.inner_name} refused {shapes} ({str(error) or 'an assertion without a message'}); see "
                "its documentation."
            ) from error
        if not isinstance(value, Tensor):
            raise ValueError(f"adapted: {self.inner_name} returned a {type(value).__name__}; a loss returns a tensor.")
        if value.ndim == 0 and self.reduction == "mean" and _has_class_weights(self.loss):
            raise ValueError(
                f"adapted: {self.inner_name} has weights of its own, so the divisor of its mean is unknown; give "
                "CrossEntropy(class_weight=...), or reduction=None, which weighs all batches alike."
            )
        if value.ndim == 0 or self.reduction is None:
            return value
        # As `denominator` counts them.
        target = tensors.get("target")
        kept = None
        if self.ignore_index is not None and isinstance(target, Tensor) and target.shape == value.shape:
            kept = None if target.is_floating_point() else labelled_rows(target, self.ignore_index)
        return reduce(value, self.reduction, kept)

    def arguments(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the wrapped loss, taken from the step's tensors."""
        return {argument: self._prepared(source, tensors) for argument, source in self._sources.items()}

    def extra_repr(self) -> str:
        """The wrapped function, unless it is a module, and the names of its tensors."""
        own = "" if isinstance(self.loss, nn.Module) else f"{self.inner_name}, "
        return own + ", ".join(f"{argument}={source}" for argument, source in self._sources.items())

    def _prepared(self, source: str, tensors: Mapping[str, Any]) -> Any:
        value = tensors.get("target") if self.one_hot and source == "target" else tensors[source]
        if value is None and source == "target" and self.one_hot:
            return self._labels(tensors)
        if not isinstance(value, Tensor):
            return value
        if not (self.one_hot and source == "target"):
            return full_precision(value) if value.is_floating_point() else value
        logits = tensors.get("logits")
        if logits is None or value.is_floating_point() or value.shape != logits.shape[:-1]:
            raise ValueError(
                f"adapted: target of shape {list(value.shape)} and dtype {value.dtype} came to {self.inner_name} with "
                "one_hot=True; give class indices of the logits' shape without its last dimension, or one_hot=False."
            )
        if known_somewhere((value < 0) | (value >= logits.shape[-1])):
            raise ValueError(
                f"adapted: a target outside 0 to {logits.shape[-1] - 1} came to {self.inner_name} with one_hot=True; "
                "leave such samples out."
            )
        wide = full_precision(logits)
        return torch.zeros_like(wide).scatter_(-1, value.unsqueeze(-1), 1.0)

    def _labels(self, tensors: Mapping[str, Any]) -> Tensor:
        """The step's labels in place of one-hot classes; every one must be known."""
        value = tensors.get("multi_hot")
        if not isinstance(value, Tensor):
            raise ValueError(f"adapted: neither target nor multi_hot came to {self.inner_name}; give one of them.")
        if known_somewhere((value < 0) | (value > 1)):
            raise ValueError(
                f"adapted: multi_hot with numbers outside of [0, 1] came to {self.inner_name}, which knows no ignored "
                "labels; take a loss of the library, such as Asymmetric."
            )
        return value.to(full_precision(tensors["logits"]).dtype)


def _parameters(loss: Callable[..., Any], name: str) -> Mapping[str, inspect.Parameter]:
    # Some modules define __call__ in place of forward.
    own_call = isinstance(loss, nn.Module) and type(loss).__call__ is nn.Module.__call__
    try:
        return inspect.signature(loss.forward if own_call else loss).parameters  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ValueError(f"adapted: the arguments of {name} can't be read; wrap it in a Python function.") from None


def _sources(parameters: Mapping[str, inspect.Parameter], name: str, inputs: dict[str, str]) -> dict[str, str]:
    """For each argument of the loss, the name of the step's tensor."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes = {p.name: p.default is inspect.Parameter.empty for p in parameters.values() if p.kind in named}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = sorted(set(inputs) - set(takes))
    if unknown and not takes_any:
        raise ValueError(
            f"adapted: inputs name {', '.join(unknown)}, which {name} does not take; it takes {', '.join(takes)}."
        )
    sources = {argument: inputs.get(argument, argument) for argument in takes if takes[argument]}
    sources.update(inputs)
    if not sources:
        raise ValueError(f"adapted: {name} needs no tensor; say by inputs= which tensors it gets.")
    return sources


def _has_class_weights(loss: Any) -> bool:
    """Whether a loss that isn't torch's has class weights; its parameters don't count as such."""
    function = getattr(loss, "func", type(loss) if isinstance(loss, nn.Module) else loss)
    weight = getattr(loss, "keywords", {}).get("weight", getattr(loss, "weight", None))
    plain = isinstance(weight, Tensor) and not isinstance(weight, nn.Parameter) and weight.ndim == 1
    return plain and not str(getattr(function, "__module__", "")).startswith("torch.")


def _name(loss: Callable[..., Any]) -> str:
    function = getattr(loss, "func", loss)
    return type(loss).__name__ if isinstance(loss, nn.Module) else getattr(function, "__name__", repr(function))
