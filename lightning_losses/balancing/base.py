"""The interface of the policies that balance the terms of an objective.

A policy of values gives a factor for each term, from earlier steps or from this step's losses. A policy of gradients
gives a factor for each term's gradient, from the inner products of the gradients in this step.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, field
from typing import Any, ClassVar, Literal, NamedTuple, Self, dataclass_transform

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_losses.numerics.settings import Declared, check_settings, settings


class Step(NamedTuple):
    """The losses and gradient lengths of an objective's T terms in one optimizer step, over all batches and processes.

    Attributes:
        losses: [T] the terms' means times their own weights; NaN for a term without samples or with weight 0.
        norms: [T] the lengths of the terms' gradients with respect to the shared parameters, if the policy reads them.
    """

    losses: Float[Tensor, " terms"]
    norms: Float[Tensor, " terms"] | None = None


class _Known:
    """What the host knows of a buffer: the number in it, while it is the same tensor in the same version."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None
        self.version = self.number = 0

    def __reduce__(self) -> tuple[type["_Known"], tuple[()]]:
        # A copy of the policy has a buffer of its own, which it reads anew.
        return _Known, ()


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class Balancing(Declared, nn.Module):
    """Base of the policies: a subclass has settings as annotated fields, and state as buffers and parameters.

    A term that is absent from a step, or not finite, doesn't change the policy's state for it.

    Attributes:
        name: the name of the policy's file and configuration.
        reads: the input that a step's weights need: nothing, its losses, or its gradients.
        watches_gradients: whether `update` needs the lengths of the terms' gradients.
    """

    reads: ClassVar[Literal["nothing", "losses", "gradients"]] = "nothing"
    watches_gradients: ClassVar[bool] = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Initialise the module before the constructor sets its fields."""
        policy = super().__new__(cls)
        nn.Module.__init__(policy)
        return policy

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.name = cls.__module__.rpartition(".")[2]
        super().__init_subclass__(**kwargs)

    def __post_init__(self) -> None:
        check_settings(self, self.name)
        self.terms = 0

    def begin(self, terms: int) -> None:
        """Create the state for this number of terms; an objective calls it once.

        Raises:
            ValueError: a policy that belongs to another objective.
        """
        if self.terms:
            raise ValueError(f"{self.name}: it balances another objective already; give each objective a policy.")
        self.terms = terms

    def weights(self, losses: Float[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """The factor of each term in this step.

        Args:
            losses: the losses of this step, without gradient, NaN for an absent term; to be read only if `reads` says
                so.
        """
        raise NotImplementedError

    def shared_patterns(self) -> Sequence[str] | None:
        """Patterns of the shared parameters; None: those on which more than one term depends."""
        patterns: Sequence[str] | None = getattr(self, "shared", None)
        return patterns

    def penalties(self) -> Float[Tensor, " terms"] | None:
        """The penalty that is added for each present term; None for no penalty."""
        return None

    def update(self, step: Step) -> None:
        """Update the state with a step, after its backward pass."""

    def at_epoch(self, epoch: int) -> None:
        """Tell the policy the epoch of a step, before the step."""

    @property
    def stateless(self) -> bool:
        """Whether it needs no `update`, because its weights are constant or trained like the network's."""
        return self.reads == "nothing" and type(self).update is Balancing.update

    def state(self, name: str, value: float) -> None:
        """Register a number for each term as a buffer in double precision."""
        self.register_buffer(name, torch.full((self.terms,), value, dtype=torch.float64))

    def count_steps(self) -> None:
        """Register the number of steps done as the buffer "steps"; `steps_done` reads it."""
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._known = _Known()

    @property
    def steps_done(self) -> int:
        """The number of steps done; a GPU is waited for only after something else has written the buffer."""
        buffer, known = self.get_buffer("steps"), self.__dict__.setdefault("_known", _Known())
        if buffer.device.type == "cpu" or buffer.is_inference():
            # Read for nothing, or without a version that would tell of a change.
            return int(buffer)
        if known.buffer is not buffer or known.version != buffer._version:
            known.buffer, known.version, known.number = buffer, buffer._version, int(buffer)
        return known.number

    def count_step(self) -> None:
        """Add one to the number of steps done."""
        number, buffer = self.steps_done + 1, self.get_buffer("steps")
        buffer.add_(1)
        if not buffer.is_inference():
            self._known.version, self._known.number = buffer._version, number

    def extra_repr(self) -> str:
        """The settings, as arguments of the constructor."""
        kind: type = type(self)
        values = {setting.name: getattr(self, setting.name) for setting in settings(kind)}
        return ", ".join(f"{name}={value!r}" for name, value in values.items() if not isinstance(value, nn.Module))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the state, but never to a narrower dtype: a half-precision network keeps it in full precision."""

        def moved(tensor: Tensor) -> Tensor:
            other = fn(tensor)
            if not tensor.is_floating_point() or tensor.is_meta:
                return other
            dtype = torch.float32 if other.device.type == "mps" else torch.promote_types(tensor.dtype, other.dtype)
            return other if other.dtype == dtype else tensor.to(other.device, dtype)

        return super()._apply(moved, recurse)  # type: ignore[no-untyped-call]


class GradientBalancing(Balancing):
    """Base of the policies that combine the terms' gradients with respect to the shared parameters.

    Every direction is a weighted sum of the terms' gradients, so a policy needs only the inner products of the
    gradients. Parameters of a single term, such as a task's own head, keep that term's gradient.

    Args:
        shared: shell-style patterns of the names of the shared parameters; None: those on which more than one term
            depends.

    Attributes:
        weighs_heads: whether it also weighs the gradients of parameters that are not shared; see `head_weights`.
    """

    reads = "gradients"
    weighs_heads: ClassVar[bool] = False

    _: KW_ONLY
    shared: Sequence[str] | None = None

    def coefficients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        """The factor of each gradient.

        Args:
            gram: the inner products of the present terms' gradients, in double precision on the CPU.

        Returns:
            [T] in double precision; the sum of the gradients times these factors replaces their plain sum.
        """
        raise NotImplementedError

    def combined(self, gram: Float[Tensor, "terms terms"], present: Bool[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """The factor of every term's gradient; absent terms are left out and get the factor 1."""
        weights = torch.ones(len(gram), dtype=gram.dtype)
        if present.any():
            weights[present] = self.coefficients(gram[present][:, present])
        return weights

    def head_weights(self) -> Float[Tensor, " terms"] | None:
        """The factors of the gradients of parameters that are not shared; None leaves these gradients unchanged."""
        return None


def unit_gram(
    gram: Float[Tensor, "terms terms"],
) -> tuple[Float[Tensor, "kept kept"], Float[Tensor, " kept"], Bool[Tensor, " terms"]]:
    """The cosines of the nonzero gradients, their lengths, and a mask of them.

    Example:
        >>> unit_gram(torch.tensor([[4.0, 0.0], [0.0, 0.0]], dtype=torch.float64))[:2]
        (tensor([[1.]], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    lengths = gram.diagonal().clamp(min=0).sqrt()
    kept = lengths > 0
    lengths = lengths[kept]
    # Divided one after the other, because the product of two short lengths could underflow.
    return gram[kept][:, kept] / lengths / lengths.unsqueeze(-1), lengths, kept
