"""Multi-token prediction: further heads on the trunk of a language model predict the tokens after the next one."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_losses.networks.transformer import Transformer
from lightning_losses.networks.transformer_blocks import normalisation_after, output_of, transformer_blocks
from lightning_losses.numerics.checks import check_count, check_number

Network = TypeVar("Network", bound=nn.Module)

_NAME = "multi_token_network"
# A copied block must not write into the cache of the block that it was copied from.
_CACHES = ("past_key_values", "past_key_value", "layer_past")


class MultiTokenHeads(nn.Module):
    """The heads of a network for the tokens after the next one: a block each, on the input of the network's last block.

    The network's own last block is the head of the next token, its normalisation and its output matrix serve all heads.

    Args:
        block: the network's last block, of which each head begins as a copy.
        norm: what follows it, up to the output matrix.
        predicted: n, the number of predicted tokens; n - 1 heads are made.
        recompute: whether a head's activations are computed again in the backward pass, so that only one head's are
            held at a time.
    """

    def __init__(self, block: nn.Module, norm: nn.Module, predicted: int, recompute: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(predicted - 1))
        self.recompute = recompute
        # Not submodules of this one: they are the network's.
        self.__dict__["_shared"] = (block, norm)
        self.__dict__["_given"] = None
        self.__dict__["_normalised"] = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within this context the network's pass tells the trunk's output, which `further_hidden` starts from."""
        block, norm = self.__dict__["_shared"]
        handles = [
            block.register_forward_pre_hook(self._note_given, with_kwargs=True),
            norm.register_forward_hook(self._note_normalised),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def further_hidden(self, hidden: Float[Tensor, "batch time width"]) -> list[Float[Tensor, "batch time width"]]:
        """The hidden states that predict the second, third, ... next token, for the network's output matrix.

        Args:
            hidden: those of the next token, from the same pass; only compared.

        Raises:
            ValueError: no recorded pass, or one in which something else follows the normalisation.
        """
        given, normalised = self.__dict__["_given"], self.__dict__["_normalised"]
        self.__dict__["_given"] = self.__dict__["_normalised"] = None
        if given is None or normalised is None:
            raise ValueError(
                f"{_NAME}: the network did not run its last block and normalisation; call it within recording(), and "
                "name both by block= and norm= if others were found."
            )
        if hidden.data_ptr() != normalised.data_ptr() or hidden.shape != normalised.shape:
            raise ValueError(
                f"{_NAME}: the head's input is not what the network's normalisation returned; give its last layer "
                "before the head by norm=."
            )
        return [self._run(block, *given) for block in self.blocks]

    def _run(self, block: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
        _, norm = self.__dict__["_shared"]

        def run(*arguments: Any) -> Tensor:
            head: Tensor = norm(output_of(block, *arguments, **keywords))
            return head

        if not (self.recompute and torch.is_grad_enabled()):
            return run(*arguments)
        hidden: Tensor = checkpoint(run, *arguments, use_reentrant=False)
        return hidden

    def _note_given(self, block: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        kept = {name: None if name in _CACHES else value for name, value in keywords.items()}
        self.__dict__["_given"] = (arguments, kept)

    def _note_normalised(self, norm: nn.Module, given: Any, output: Tensor) -> None:
        self.__dict__["_normalised"] = output


def multi_token_network(
    network: Network,
    predicted: int = 4,
    block: str | None = None,
    norm: str | None = None,
    recompute: bool = True,
) -> Network:
    """Give a causal transformer heads for the next n tokens; it stays what it is for everything else.

    The heads are its submodule `multi_token_heads`: they train, are saved, and follow its device. Its own forward pass
    predicts the next token without them, in evaluation, generation and as a teacher. `LanguageModel` trains all heads:
    its loss at a position is the sum of the n tokens' losses.

    Each head is a block of its own on the trunk, which is the network up to its last block; the normalisation and the
    output matrix are shared. A network of depth d with n predicted tokens has as many blocks as one of depth d + n - 1
    without.

    Args:
        network: `lightning_losses.networks.transformer`'s, or one of transformers.
        predicted: n, at least 2.
        block: the name of its last block; None for the last member of its longest list of modules.
        norm: the name of the layer between that and the output matrix; None for the first normalisation after the list.
        recompute: whether a head's activations are computed again in the backward pass: memory for one head at a time,
            and a further forward pass of the heads alone.

    Returns:
        The same network.

    Raises:
        ValueError: fewer than 2 tokens; a network that has such heads, or whose parts can't be found.

    Source:
        Gloeckle, Idrissi, Rozière, Lopez-Paz, Synnaeve, 2024, "Better & Faster Large Language Models via Multi-token
        Prediction", arXiv:2404.19737. They run forward and backward pass head by head, so that one head's logits are
        held at a time; here the fused loss holds none. Heads begin as copies of the last block, which suits a trained
        network; they draw them anew.

    Example:
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network = Transformer(vocabulary_size=9, context_length=8, width=8, depth=2, heads=2)
        >>> network = multi_token_network(network, predicted=3)
        >>> with network.multi_token_heads.recording():
        ...     hidden = network(torch.zeros(2, 5, dtype=torch.long), return_hidden=True)
        >>> [tuple(further.shape) for further in network.multi_token_heads.further_hidden(hidden)]
        [(2, 5, 8), (2, 5, 8)]
    """
    check_count(_NAME, "predicted", predicted)
    check_number(_NAME, "predicted", predicted, least=2)
    if multi_token_heads(network) is not None:
        raise ValueError(f"{_NAME}: the network has multi_token_heads already; give one without.")
    last = block or list(transformer_blocks(_NAME, network))[-1]
    after = normalisation_after(network, last) if norm is None else network.get_submodule(norm)
    if after is None:
        raise ValueError(f"{_NAME}: no normalisation follows {last} in {type(network).__name__}; name it by norm=.")
    heads = MultiTokenHeads(network.get_submodule(last), after, predicted, recompute)
    network.multi_token_heads = heads
    return network


def multi_token_transformer(predicted: int = 4, recompute: bool = True, **transformer: Any) -> Transformer:
    """A `Transformer` with the heads of `multi_token_network`, which describes both arguments.

    Args:
        predicted: n, at least 2.
        recompute: whether a head's activations are computed again in the backward pass.
        **transformer: the arguments of `Transformer`.

    Example:
        >>> network = multi_token_transformer(2, vocabulary_size=9, context_length=8, width=8, depth=1, heads=2)
        >>> network(torch.zeros(2, 5, dtype=torch.long)).shape
        torch.Size([2, 5, 9])
    """
    return multi_token_network(Transformer(**transformer), predicted, recompute=recompute)


def multi_token_heads(network: Any) -> MultiTokenHeads | None:
    """The heads that `multi_token_network` gave a network, also within PEFT's or torch.compile's wrapper."""
    heads = getattr(network, "multi_token_heads", None)
    return heads if isinstance(heads, MultiTokenHeads) else None
