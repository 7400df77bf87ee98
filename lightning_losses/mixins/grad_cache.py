"""The mixin for contrastive batches larger than memory: samples are embedded a few at a time, in one graph."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_losses.mixins.state_of_parts import StateOfParts
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
    statistics move once, by the mean over the micro-batches; with a `micro_batch` of at least 3 no part is a single
    sample. The vectors of spectral norm move once too. Any other module in training mode whose buffers move with every
    call is refused: what they would be behind the whole batch is not known.

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
            inputs: a tensor with a dimension of samples first, or a mapping of such and of lists.

        Raises:
            ValueError: a `micro_batch` below 1; inputs that can't be split by samples; a network that returns no
                tensor; a single sample in a part, where batch norm needs more; buffers, other than those of norms, that
                move with every call.
        """
        if self.micro_batch is None:
            return network(inputs)
        check_count(type(self).__name__, "micro_batch", self.micro_batch)
        rows = _rows(type(self).__name__, inputs)
        number = -(-rows // self.micro_batch)
        modules = _modules_of(network, self)
        if any(is_distributed_tensor(parameter) for part in modules for parameter in part.parameters(recurse=False)):
            # Each call gathers the parameters of all processes: those with fewer samples embed smaller parts.
            number = max(values_of_all(number))
        if number <= 1:
            return network(inputs)
        state = StateOfParts(type(self).__name__, modules)
        embeddings: list[Any] = []
        for places in torch.tensor_split(torch.arange(rows), number):
            part = _part(inputs, places)
            with state.first_pass(len(places)):
                if torch.is_grad_enabled():
                    embeddings.append(checkpoint(network, part, use_reentrant=False, context_fn=state.contexts))
                else:
                    embeddings.append(network(part))
        state.move_once()
        if not isinstance(embeddings[0], Tensor):
            came = type(embeddings[0]).__name__
            raise ValueError(
                f"{type(self).__name__}: micro_batch came with a network that returns a {came}; give a function that "
                "returns the embeddings [B, D] alone."
            )
        return torch.cat(embeddings)


def _rows(who: str, inputs: Any) -> int:
    """The number of samples.

    Raises:
        ValueError: neither a tensor nor a mapping; tensors and lists of different lengths; none at all.
    """
    given = inputs if isinstance(inputs, Mapping) else {"inputs": inputs}
    lengths = {name: len(value) for name, value in given.items() if _of_samples(value)}
    if len(set(lengths.values())) != 1:
        came = ", ".join(f"{name} of length {length}" for name, length in lengths.items()) or type(inputs).__name__
        raise ValueError(
            f"{who}: micro_batch came with inputs that can't be split: {came}; give a tensor, or a mapping whose "
            "tensors and lists all have a value for each sample."
        )
    return next(iter(lengths.values()))


def _of_samples(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0)


def _part(inputs: Any, places: Int[Tensor, " part"]) -> Any:
    """The inputs of neighbouring samples."""
    part = slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)
    if isinstance(inputs, Mapping):
        return {name: value[part] if _of_samples(value) else value for name, value in inputs.items()}
    return inputs[part]


def _modules_of(network: Any, owner: Any) -> list[nn.Module]:
    """The modules of a network; of a function, those of the module that calls it, without itself."""
    if isinstance(network, nn.Module):
        return list(network.modules())
    return [part for part in owner.modules() if part is not owner] if isinstance(owner, nn.Module) else []
