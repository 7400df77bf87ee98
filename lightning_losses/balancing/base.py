"""The contract of the policies that balance the terms of an objective.

A policy of values says what each term is multiplied by, from what it knows of the steps before, or from this step's
losses. A policy of gradients says what each term's gradient is multiplied by, from their products in this step.
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
        losses: [T] the terms' means, times their own weights; NaN where a term had no samples, or the weight 0.
        norms: [T] the lengths of the terms' gradients with respect to the shared parameters, where a policy reads them.
    """

    losses: Float[Tensor, " terms"]
    norms: Float[Tensor, " terms"] | None = None


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class Balancing(Declared, nn.Module):
    """Base of the policies: the annotated fields of a subclass are its settings, its state is buffers and parameters.

    A term that is absent from a step, or not finite there, changes nothing that a policy knows of it.

    Attributes:
        name: the name of the policy's file and configuration.
        reads: what must be known of a step before its weights are: nothing, its losses, or its gradients.
        watches_gradients: whether `update` takes the lengths of the terms' gradients.
    """

    reads: ClassVar[Literal["nothing", "losses", "gradients"]] = "nothing"
    watches_gradients: ClassVar[bool] = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the module ready for its fields, which the constructor sets first of all."""
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
            ValueError: a policy that another objective has.
        """
        if self.terms:
            raise ValueError(f"{self.name}: it balances another objective already; give each objective a policy.")
        self.terms = terms

    def weights(self, losses: Float[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """What each term is multiplied by in this step.

        Args:
            losses: of this step, without gradient, NaN where a term is absent; to be read only where `reads` says so.
        """
        raise NotImplementedError

    def shared_patterns(self) -> Sequence[str] | None:
        """Patterns of the parameters whose gradients are compared; None: those that more than one term reaches."""
        patterns: Sequence[str] | None = getattr(self, "shared", None)
        return patterns

    def penalties(self) -> Float[Tensor, " terms"] | None:
        """What is added for each term that is present; None adds nothing."""
        return None

    def update(self, step: Step) -> None:
        """Update the state with a step, after its backward pass."""

    def at_epoch(self, epoch: int) -> None:
        """Tell the policy the epoch of a step, before the step."""

    @property
    def stateless(self) -> bool:
        """Whether it needs no `update`: its weights are constant, or learned as the network's are."""
        return self.reads == "nothing" and type(self).update is Balancing.update

    def state(self, name: str, value: float) -> None:
        """Keep a number for each term in the checkpoint, in double precision."""
        self.register_buffer(name, torch.full((self.terms,), value, dtype=torch.float64))

    def extra_repr(self) -> str:
        """The settings as the constructor takes them."""
        kind: type = type(self)
        values = {setting.name: getattr(self, setting.name) for setting in settings(kind)}
        return ", ".join(f"{name}={value!r}" for name, value in values.items() if not isinstance(value, nn.Module))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the state, but never to a narrower type: a network in half precision has weights in full precision."""

        def moved(tensor: Tensor) -> Tensor:
            other = fn(tensor)
            if not tensor.is_floating_point() or tensor.is_meta:
                return other
            dtype = torch.float32 if other.device.type == "mps" else torch.promote_types(tensor.dtype, other.dtype)
            return other if other.dtype == dtype else tensor.to(other.device, dtype)

        return super()._apply(moved, recurse)  # type: ignore[no-untyped-call]


class GradientBalancing(Balancing):
    """Base of the policies that combine the terms' gradients with respect to the shared parameters.

    Every direction is a weighted sum of the terms' gradients, so that a policy needs no more of them than their
    products. Parameters that a single term reaches, such as a task's own head, keep that term's gradient.

    Args:
        shared: shell-style patterns of the names of the shared parameters; None: those that more than one term
            reaches.

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
            gram: the gradients' products, of the terms that are present, in double precision on the CPU.

        Returns:
            [T] in double precision; multiplied with the gradients and added up, they are the direction whose opposite
            the step takes.
        """
        raise NotImplementedError

    def combined(self, gram: Float[Tensor, "terms terms"], present: Bool[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """The factor of every term's gradient; absent terms take no part and have the factor 1."""
        weights = torch.ones(len(gram), dtype=gram.dtype)
        if present.any():
            weights[present] = self.coefficients(gram[present][:, present])
        return weights

    def head_weights(self) -> Float[Tensor, " terms"] | None:
        """What the gradients of parameters that are not shared are multiplied by in the step; None leaves them."""
        return None


def unit_gram(
    gram: Float[Tensor, "terms terms"],
) -> tuple[Float[Tensor, "kept kept"], Float[Tensor, " kept"], Bool[Tensor, " terms"]]:
    """The cosines of the gradients that are not 0, their lengths, and which these are.

    Example:
        >>> unit_gram(torch.tensor([[4.0, 0.0], [0.0, 0.0]], dtype=torch.float64))[:2]
        (tensor([[1.]], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    lengths = gram.diagonal().clamp(min=0).sqrt()
    kept = lengths > 0
    lengths = lengths[kept]
    # One after the other: a product of two short lengths would be 0.
    return gram[kept][:, kept] / lengths / lengths.unsqueeze(-1), lengths, kept
