"""Losses for noisy labels."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_losses.losses import GCE
from lightning_losses.losses.base import Loss
from tests.golden.adapter import Adapter, Params, gradients, leaf


def loss(read: Callable[[Params], Loss]) -> Adapter:
    """The adapter of a loss of logits and targets, from what makes the loss of its parameters."""

    def adapter(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
        with Params(params) as given:
            built = read(given)
        logits = leaf(inputs["logits"])
        value = built(logits, inputs["target"])
        return {"loss": value, **gradients(value, logits=logits)}

    return adapter


ADAPTERS: dict[str, Adapter] = {
    "gce": loss(lambda given: GCE(q=given.take("q"), reduction=given.take("reduction"))),
}
