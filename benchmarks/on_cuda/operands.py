"""What a timed step works on, and the sizes that are measured."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Size(NamedTuple):
    """N tokens, widths D of the student and E of the teacher, and V vocabulary entries."""

    tokens: int
    width: int
    vocabulary: int
    teacher_width: int = 0

    def __str__(self) -> str:
        teacher = f" E={self.teacher_width}" if self.teacher_width else ""
        return f"N={self.tokens} D={self.width}{teacher} V={self.vocabulary}"

    def rehearsed(self) -> "Size":
        """The same in miniature, for a machine without a card."""
        return Size(self.tokens // 128, self.width // 64, self.vocabulary // 128, self.teacher_width // 64)

    @property
    def operations(self) -> int:
        """Floating-point operations of the products that no implementation can do without."""
        return 2 * self.tokens * self.vocabulary * (3 * self.width + self.teacher_width)


class Operands(NamedTuple):
    """Both heads, the targets, and a gradient of either sign for each token's loss."""

    hidden: Tensor
    weight: Tensor
    target: Tensor
    upstream: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor

    def exact(self) -> "Operands":
        """The same numbers in float64."""
        raised = [t.detach().double() if t.is_floating_point() else t for t in self]
        for leaf in raised[:2]:
            leaf.requires_grad_()
        return Operands(*raised)


Forward = Callable[[Operands], Tensor]
"""A scalar loss of the operands."""


def operands(size: Size, dtype: torch.dtype, device: torch.device, ignored: bool = False) -> Operands:
    """Random heads of a size, with every seventh token ignored where asked."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    def heads(width: int) -> tuple[Tensor, Tensor]:
        scale = max(width, 1) ** -0.5
        return normal(size.tokens, width).to(dtype), (normal(size.vocabulary, width) * scale).to(dtype)

    hidden, weight = heads(size.width)
    target = torch.randint(size.vocabulary, (size.tokens,), generator=generator, device=device)
    if ignored:
        target[::7] = -100
    upstream = normal(size.tokens) / size.tokens
    return Operands(hidden.requires_grad_(), weight.requires_grad_(), target, upstream, *heads(size.teacher_width))


def step(forward: Forward, tensors: Operands) -> Tensor:
    """Forward and backward into fresh gradients; the loss."""
    tensors.hidden.grad = tensors.weight.grad = None
    loss = forward(tensors)
    loss.backward()
    return loss.detach()
