"""Running averages that stay out of half precision when their module is moved to it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lightning_losses.numerics.probabilities import full_precision


@contextmanager
def buffers_in_full_precision(module: nn.Module) -> Iterator[None]:
    """Within ``_apply``: a module's own buffers go to another device, but not to half precision.

    There a running average would round back to its old value.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with buffers_in_full_precision(norm):
        ...     _ = norm.half()
        >>> norm.weight.dtype, norm.running_mean.dtype
        (torch.float16, torch.float32)
    """
    own = {name: buffer for name, buffer in module._buffers.items() if buffer is not None and not buffer.is_meta}
    yield
    for name, buffer in own.items():
        moved = module.get_buffer(name)
        if moved.dtype in (torch.float16, torch.bfloat16):
            module._buffers[name] = full_precision(buffer).to(moved.device)
