"""Finds the blocks of a transformer, ours or another's, and the normalisation after them."""

from jaxtyping import Float
from torch import Tensor, nn


def transformer_blocks(owner: str, network: nn.Module) -> dict[str, nn.Module]:
    """The network's blocks by name, in order: the members of its longest list of modules.

    The heads that `multi_token_network` adds are none of them.

    Args:
        owner: the name in errors.
        network: any network.

    Raises:
        ValueError: a network without a list of modules.

    Example:
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network = Transformer(vocabulary_size=9, context_length=8, width=8, depth=2, heads=2)
        >>> list(transformer_blocks("example", network))
        ['blocks.0', 'blocks.1']
    """
    lists = {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, nn.ModuleList) and not of_further_tokens(name)
    }
    if not lists:
        raise ValueError(
            f"{owner}: {type(network).__name__} has no list of modules, which would be its blocks; give their names."
        )
    # Of lists of one length the first, which is the outermost.
    name = max(lists, key=lambda name: len(lists[name]))
    return {f"{name}.{number}": block for number, block in enumerate(lists[name])}


def of_further_tokens(name: str) -> bool:
    """Whether a submodule is of the heads that `multi_token_network` adds, which the network's own pass leaves out.

    Example:
        >>> of_further_tokens("multi_token_heads.blocks.0"), of_further_tokens("blocks.0")
        (True, False)
    """
    return "multi_token_heads" in name.split(".")


def normalisation_after(network: nn.Module, block: str) -> nn.Module | None:
    """The first normalisation beside the list that holds a block, after that list; None if there is none.

    Example:
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network = Transformer(vocabulary_size=9, context_length=8, width=8, depth=2, heads=2)
        >>> normalisation_after(network, "blocks.1") is network.norm
        True
    """
    held = block.rpartition(".")[0]
    above, _, name = held.rpartition(".")
    beside = list(network.get_submodule(above).named_children())
    place = [other for other, _ in beside].index(name)
    return next((part for _, part in beside[place + 1 :] if "norm" in type(part).__name__.lower()), None)


def output_of(block: nn.Module, *arguments: object, **keywords: object) -> Float[Tensor, "batch time width"]:
    """The hidden states that a block returns, alone or first in a tuple."""
    output = block(*arguments, **keywords)
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
