"""The contract that every loss keeps."""

import inspect
import re
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

Status = Literal["confirmed", "paper", "experimental"]


def forward_inputs(function: Callable[..., Any]) -> dict[str, bool]:
    """The tensors that a loss takes, by name: True where it can't do without."""
    parameters = inspect.signature(function).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default is inspect.Parameter.empty for p in parameters if p.kind in named and p.name != "self"}


class Loss(nn.Module):
    """Base of the losses: tensors in, one value out; no Lightning, no configuration, no process group.

    The names of `forward`'s arguments come from the glossary (`logits`, `target`, `teacher_logits`, ...): an
    `Objective` feeds them by name. An argument with a default is optional.

    Attributes:
        batch_coupled: True where the value of one sample depends on the others in the batch; a mixin then gathers
            the batch of all processes first.
        status: "confirmed" against the authors' code, from the "paper" alone, or "experimental".
        evidence: what its numbers are compared with: a repository as owner/name, or the reason why there is none.
    """

    batch_coupled: ClassVar[bool] = False
    # A class that says nothing claims nothing.
    status: ClassVar[Status] = "experimental"
    evidence: ClassVar[str] = ""

    @classmethod
    def inputs(cls) -> dict[str, bool]:
        """The tensors that `forward` takes, by name: True where it can't do without."""
        return forward_inputs(cls.forward)

    @classmethod
    def identifier(cls) -> str:
        """The snake_case id: the name of the method's file, configuration, test and catalogue line."""
        return (
            cls.__module__.rpartition(".")[2]
            if cls.__module__.startswith("lightning_losses.")
            else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        )

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What reduction "mean" divides by: how many of these samples are not ignored.

        Processes with different counts need it to weigh their means; a loss that averages otherwise overrides it.
        """
        target, ignore_index = tensors.get("target"), getattr(self, "ignore_index", None)
        if target is not None and not target.is_floating_point() and ignore_index is not None:
            return (target != ignore_index).sum()
        first = tensors.get("logits", next(iter(tensors.values())))
        rows = first.shape[:-1].numel() if "logits" in tensors else len(first)
        return torch.tensor(rows, device=first.device)

    def extra_repr(self) -> str:
        """The hyperparameters as the constructor takes them."""
        names = [n for n in inspect.signature(type(self).__init__).parameters if n != "self" and hasattr(self, n)]
        return ", ".join(f"{n}={getattr(self, n)!r}" for n in names if not isinstance(getattr(self, n), nn.Module))
