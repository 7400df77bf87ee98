"""Whether a network's own loss compares logits with the next position's labels, or with labels in place."""

import math
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lightning_losses.networks.calls import call, in_evaluation, names, unwrapped

# Networks that have been tested.
_ONE_ON = WeakSet[nn.Module]()


def check_compares_one_on(owner: str, network: nn.Module) -> None:
    """Refuse a network whose own loss compares logits with labels in place, tested once by a run on two tokens.

    Most causal networks of transformers compare each position's logits with the next position's label. XLNet, XLM and
    the decoders of BART, Marian, Pegasus, TrOCR, ... don't. A network without a loss of its own isn't run.

    Args:
        owner: the name in errors.
        network: a network of transformers, with or without PEFT's adapters, or any other.

    Raises:
        ValueError: such a network, or one that has a loss but can't be run on two tokens.

    Example:
        >>> check_compares_one_on("example", nn.Linear(2, 3))
    """
    whole = unwrapped(network)
    if whole in _ONE_ON or not (names(whole, "labels") and names(whole, "input_ids")):
        return
    remedy = "give the batch as 'inputs' and 'target', where target[:, t] is the token that the logits at t predict."
    try:
        # A loss with next labels never uses the first label.
        # Keep PEFT's wrapper: under FSDP2 the outermost module gathers the parameters.
        runs = getattr(network, "_orig_mod", network)
        with torch.no_grad(), in_evaluation(runs):
            first, nothing = _own_loss(runs, [1, -100]), _own_loss(runs, [-100, -100])
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{owner}: {type(whole).__name__} can't be run on two tokens and their labels, to see which logits it "
            f"compares with them ({error}); {remedy}"
        ) from error
    if not math.isnan(first) and first != nothing:
        raise ValueError(
            f"{owner}: {type(whole).__name__} compares its logits with labels in place, while other causal networks "
            f"use the next position's label; {remedy}"
        )
    _ONE_ON.add(whole)


def _own_loss(network: Any, labels: list[int]) -> float:
    """The network's loss; NaN if it has none, as for labels that are all ignored."""
    tokens = torch.arange(2, device=next(network.parameters()).device)[None]
    inputs = {"input_ids": tokens, "labels": torch.tensor([labels], device=tokens.device)}
    if names(network, "decoder_input_ids"):
        inputs["decoder_input_ids"] = tokens
    output = call(network, inputs)
    loss = getattr(output, "loss", output[0] if isinstance(output, tuple) else None)
    return float(loss) if isinstance(loss, Tensor) and loss.ndim == 0 else math.nan
