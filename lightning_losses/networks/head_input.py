"""What a language network's head is fed: its own hidden states, with the head's product left out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.networks.calls import call, logits_of, names, takes
from lightning_losses.networks.output_head import finished_logits, hidden_scale, logit_scale, logit_softcap


def head_input(
    owner: str, network: nn.Module, head: nn.Module, inputs: Any, **further: Any
) -> Float[Tensor, "batch time width"]:
    """Run a network up to its head: the hidden states that head and configuration make its logits of.

    A network whose `forward` takes ``return_hidden`` is asked for them; of any other the head is passed by while it
    runs, whatever stands before it. What stands behind it gets known numbers in place of the head's product, the first
    time, and must make of them what `finished_logits` does: a scale or a softcap that the configuration doesn't tell
    would make another loss.

    Args:
        owner: what errors name.
        network: makes logits of tokens: a network of transformers, with PEFT's adapters or without, or anybody's.
        head: its layer that makes the logits.
        inputs: the tokens, or a mapping of them and their mask, positions, ... by name.
        **further: given by name beside them.

    Raises:
        ValueError: a network that doesn't call its head, or changes its product in a way that nobody can tell.

    Example:
        >>> network = nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Linear(4, 9))
        >>> head_input("example", network, network[2], torch.arange(6).reshape(2, 3)).shape
        torch.Size([2, 3, 4])
    """
    if names(network, "return_hidden"):
        return call(network, inputs, return_hidden=True, **further)
    if names(network, "use_cache"):
        # Kept for generation alone; and beside a cache transformers' networks don't tell packed documents apart.
        further = {"use_cache": False, **further}
    with _passed_by(head) as passed:
        logits = logits_of(f"{owner}: {type(network).__name__}", call(network, inputs, **further))
    hidden, product = passed.hidden, passed.product
    passed.hidden = passed.product = None
    if hidden is None or product is None:
        raise ValueError(
            f"{owner}: {type(network).__name__} made its logits without calling its head, a {type(head).__name__}; "
            "set self.language_head to the layer that makes them."
        )
    scale = hidden_scale(network)
    if not passed.checked:
        _check_what_follows(owner, network, finished_logits(network, product / scale), logits)
        passed.checked = True
    return hidden if scale == 1.0 else hidden / scale


def check_what_follows_head(owner: str, network: nn.Module, head: nn.Module) -> None:
    """Refuse a network of transformers that changes its head's product in a way that nobody can tell: once, by a run.

    Raises:
        ValueError: that, or a network that can't be run on two tokens.
    """
    if not takes(network, "input_ids") or (head in _PASSED_BY and _PASSED_BY[head].checked):
        return
    tokens = torch.zeros(1, 2, dtype=torch.int64, device=next(network.parameters()).device)
    inputs = {"input_ids": tokens}
    if names(network, "decoder_input_ids"):
        inputs["decoder_input_ids"] = tokens
    training = [part for part in network.modules() if part.training]
    try:
        # Dropout would take random numbers of the training.
        network.eval()
        head_input(owner, network, head, inputs)
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"{owner}: {type(network).__name__} can't be run on two tokens, to see what follows its head ({error}); "
            "take hidden states from self.hidden_states(inputs), or set self.language_head to say that nothing does."
        ) from error
    finally:
        for part in training:
            part.training = True


class _PassedBy:
    """Stands in for the `forward` of a head: keeps what it is fed, and returns numbers that are known."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None
        self.product: Tensor | None = None
        self.checked = False

    def __call__(self, hidden: Tensor) -> Tensor:
        self.hidden = hidden
        # A column, which fits beside a bias of the whole vocabulary; large enough for a softcap to show.
        places = torch.arange(hidden.shape[:-1].numel(), device=hidden.device)
        self.product = (places % 61 - 30).to(hidden.dtype).view(*hidden.shape[:-1], 1)
        return self.product


# One for each head, so that a compiled network sees the same one in every step.
_PASSED_BY: WeakKeyDictionary[nn.Module, _PassedBy] = WeakKeyDictionary()


@contextmanager
def _passed_by(head: nn.Module) -> Iterator[_PassedBy]:
    passed = _PASSED_BY.setdefault(head, _PassedBy())
    own = vars(head).get("forward")
    vars(head)["forward"] = passed
    try:
        yield passed
    finally:
        if own is None:
            del vars(head)["forward"]
        else:
            vars(head)["forward"] = own


def _check_what_follows(owner: str, network: nn.Module, expected: Tensor, logits: Tensor) -> None:
    """Refuse logits that aren't what the head's product becomes by the configuration."""
    who = f"{owner}: {type(network).__name__}"
    remedy = "no fused head does that: give the objective its logits, by apply_objective."
    if logits.requires_grad:
        raise ValueError(f"{who} has parameters behind its head, and {remedy}")
    # Two digits of bfloat16; what is to be noticed is larger.
    near = 0.02 if torch.finfo(logits.dtype).bits < 32 else 1e-4
    fits = logits.shape[:-1] == expected.shape[:-1]
    if not fits or not torch.allclose(logits, expected.expand_as(logits).to(logits.dtype), rtol=near, atol=near):
        raise ValueError(
            f"{who} changes its head's logits in another way than its configuration tells (a scale of "
            f"{logit_scale(network):g} and a softcap of {logit_softcap(network)}), and {remedy}"
        )
