"""Gets the input of a language network's head, the hidden states, without the product with the head."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.networks.calls import call, in_evaluation, logits_of, names, takes
from lightning_losses.networks.output_head import finished_logits, hidden_scale, logit_scale, logit_softcap


def head_input(
    owner: str, network: nn.Module, head: nn.Module, inputs: Any, **further: Any
) -> Float[Tensor, "batch time width"]:
    """Run a network up to its head, and return the hidden states that the head gets.

    A network whose `forward` takes ``return_hidden`` is called with it. In any other network the head is skipped during
    the call. The first time, the layers after the head get known numbers instead of the head's product, and must turn
    them into the same result as `finished_logits`. Otherwise a scale or softcap that isn't in the configuration would
    change the loss.

    Args:
        owner: the name in errors.
        network: a network that returns logits of tokens: one of transformers, with or without PEFT's adapters, or any
            other.
        head: the network's layer that computes the logits.
        inputs: the tokens, or a mapping of tokens, mask, positions, ... by name.
        **further: further keyword arguments.

    Raises:
        ValueError: a network that doesn't call its head, or changes the head's product in an unknown way.

    Example:
        >>> network = nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Linear(4, 9))
        >>> head_input("example", network, network[2], torch.arange(6).reshape(2, 3)).shape
        torch.Size([2, 3, 4])
    """
    if names(network, "return_hidden"):
        return call(network, inputs, return_hidden=True, **further)
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
    """Refuse a network of transformers that changes its head's product in an unknown way, tested by one run.

    Raises:
        ValueError: such a network, or one that can't be run on two tokens.
    """
    if not takes(network, "input_ids") or (head in _PASSED_BY and _PASSED_BY[head].checked):
        return
    tokens = torch.zeros(1, 2, dtype=torch.int64, device=next(network.parameters()).device)
    inputs = {"input_ids": tokens}
    if names(network, "decoder_input_ids"):
        inputs["decoder_input_ids"] = tokens
    try:
        with in_evaluation(network):
            head_input(owner, network, head, inputs)
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"{owner}: {type(network).__name__} can't be run on two tokens, to see what follows its head ({error}); "
            "take hidden states from self.hidden_states(inputs), or set self.language_head if nothing does."
        ) from error


@torch.no_grad()
def check_documents_apart(owner: str, network: nn.Module, head: nn.Module) -> None:
    """Refuse a network whose documents see each other, tested once by a run on two documents of one token.

    Raises:
        ValueError: that.
    """
    passed = _PASSED_BY.setdefault(head, _PassedBy())
    if passed.parts_documents:
        return
    tokens = torch.arange(2, device=next(network.parameters()).device)
    positions = torch.zeros_like(tokens)
    with in_evaluation(network):
        packed, *alone = (
            head_input(owner, network, head, {"input_ids": tokens[row][None], "position_ids": positions[row][None]})
            for row in (slice(0, 2), slice(0, 1), slice(1, 2))
        )
    near = _rounding(packed.dtype) * float(packed.abs().max())
    if not torch.allclose(packed, torch.cat(alone, dim=1), rtol=0.0, atol=near):
        raise ValueError(
            f"{owner}: {type(network).__name__} lets documents in a row see each other, though their position ids "
            "begin anew; give each a row of its own (packed=False), or use an attention that keeps them apart."
        )
    passed.parts_documents = True


def _rounding(dtype: torch.dtype) -> float:
    """The tolerance between two computations of the same value."""
    return 0.02 if torch.finfo(dtype).bits < 32 else 1e-5


class _PassedBy:
    """Replaces the `forward` of a head: keeps its input and returns known numbers."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None
        self.product: Tensor | None = None
        self.checked = False
        self.parts_documents = False

    def __call__(self, hidden: Tensor) -> Tensor:
        if not hidden.is_floating_point():
            raise ValueError(
                "the network embeds its tokens by the layer that is its head; let its forward take return_hidden=True "
                "and return the head's input."
            )
        self.hidden = hidden
        # One column, which broadcasts with a bias of the whole vocabulary, large enough to reveal a softcap.
        places = torch.arange(hidden.shape[:-1].numel(), device=hidden.device)
        self.product = (places % 61 - 30).to(hidden.dtype).view(*hidden.shape[:-1], 1)
        return self.product


# One per head, so that a compiled network sees the same object in every step.
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
    """Refuse logits that differ from the head's product finished by the configuration."""
    who = f"{owner}: {type(network).__name__}"
    remedy = "no fused head does that: give the objective its logits, by apply_objective."
    if logits.requires_grad:
        raise ValueError(f"{who} has parameters behind its head, and {remedy}")
    near = _rounding(logits.dtype)
    fits = logits.shape[:-1] == expected.shape[:-1]
    if not fits or not torch.allclose(logits, expected.expand_as(logits).to(logits.dtype), rtol=near, atol=near):
        raise ValueError(
            f"{who} changes its head's logits in a way that its configuration doesn't describe (a scale of "
            f"{logit_scale(network):g} and a softcap of {logit_softcap(network)}), and {remedy}"
        )
