"""The mixin for contrastive batches larger than memory: samples are embedded a few at a time, in one graph."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lightning_losses.numerics.checks import check_count
from lightning_losses.parallel.processes import is_distributed_tensor, values_of_all


class GradCache:
    """Embeds a batch in micro-batches that keep no activations, so that one loss sees more samples than memory holds.

    A micro-batch is embedded, and all that its backward pass needs is forgotten; the backward pass of the loss embeds
    it again, with the same random numbers, before its gradients are taken. So the memory is that of one micro-batch
    and of all embeddings, the time that of one more forward pass, and loss and gradients are those of the whole batch
    up to rounding: also under DDP and FSDP2, with mixed precision, and with accumulation.

    Call ``self.embedded(network, inputs)`` in place of ``network(inputs)``; the ready modules that embed do so.

    Batch norm takes the statistics of each micro-batch, as several processes would take their own, and its running
    statistics move once.

    Attributes:
        micro_batch: how many samples are embedded at a time, at least 1; None embeds the whole batch at once.

    Source:
        Gao, Zhang, Han, Callan, 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
        arXiv:2101.06983. There the gradients by the embeddings are kept and backward passes are run for each
        micro-batch by hand; here each is a checkpoint of one graph, which gives the same in one backward pass.

    Example:
        >>> class Encoder(GradCache, nn.Module):
        ...     micro_batch = 2
        >>> Encoder().embedded(nn.Linear(3, 4), torch.ones(5, 3)).shape
        torch.Size([5, 4])
    """

    micro_batch: int | None = None

    def embedded(self, network: Callable[[Any], Tensor], inputs: Any) -> Float[Tensor, "batch dim"]:
        """The embeddings of a batch of inputs, made a micro-batch at a time if `micro_batch` says so.

        Args:
            network: maps inputs to embeddings [B, D].
            inputs: a tensor with a dimension of samples first, or a mapping of such.

        Raises:
            ValueError: a `micro_batch` below 1.
        """
        if self.micro_batch is None:
            return network(inputs)
        check_count(type(self).__name__, "micro_batch", self.micro_batch)
        rows = _rows(inputs)
        number = -(-rows // self.micro_batch)
        if any(is_distributed_tensor(parameter) for part in _modules_of(network) for parameter in part.parameters()):
            # Each call gathers the parameters of all processes: those with fewer samples embed smaller parts.
            number = max(values_of_all(number))
        if number <= 1:
            return network(inputs)
        parts = list(_split(inputs, number))
        if not torch.is_grad_enabled():
            return torch.cat([network(part) for part in parts])
        embeddings: list[Any] = [
            checkpoint(network, part, use_reentrant=False, context_fn=lambda: (nullcontext(), _still(network)))
            for part in parts
        ]
        return torch.cat(embeddings)


def _rows(inputs: Any) -> int:
    """The number of samples."""
    tensors = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return next(len(value) for value in tensors if isinstance(value, Tensor))


def _split(inputs: Any, number: int) -> Iterator[Any]:
    """The inputs in so many parts, of as many samples as can be."""
    if isinstance(inputs, Mapping):
        parts = {name: torch.tensor_split(value, number) for name, value in inputs.items() if isinstance(value, Tensor)}
        rest = {name: value for name, value in inputs.items() if name not in parts}
        for part in zip(*parts.values(), strict=True):
            yield {**rest, **dict(zip(parts, part, strict=True))}
    else:
        yield from torch.tensor_split(inputs, number)


@contextmanager
def _still(network: Any) -> Iterator[None]:
    """Within this context batch norm's running statistics do not move, because they did in the first pass."""
    norms = [part for part in _modules_of(network) if isinstance(part, _BatchNorm) and part.track_running_stats]
    kept = [[buffer.clone() for buffer in norm.buffers()] for norm in norms]
    try:
        yield
    finally:
        with torch.no_grad():
            for norm, buffers in zip(norms, kept, strict=True):
                for buffer, before in zip(norm.buffers(), buffers, strict=True):
                    buffer.copy_(before)


def _modules_of(network: Any) -> Iterator[nn.Module]:
    """The modules of a network, or of the object that a bound method belongs to."""
    owner = network if isinstance(network, nn.Module) else getattr(network, "__self__", None)
    return owner.modules() if isinstance(owner, nn.Module) else iter(())
