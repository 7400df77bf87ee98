"""How embeddings lie and depend on each other: alignment and uniformity."""

from typing import Any

from torch import Tensor

from lightning_losses.metrics.alignment_uniformity import alignment, uniformity
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def alignment_uniformity(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        power, t = float(read.take("alpha")), float(read.take("t"))
    x, y = leaf(given["x"]), leaf(given["y"])
    aligned, uniform = alignment(x, y, power=power), uniformity(x, t=t)
    return {
        "alignment": aligned,
        "uniformity": uniform,
        **gradients(aligned, align_x=x, align_y=y),
        **gradients(uniform, unif_x=x),
    }


ADAPTERS: dict[str, Adapter] = {"alignment_uniformity": alignment_uniformity}
