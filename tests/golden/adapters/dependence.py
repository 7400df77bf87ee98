"""How embeddings lie and depend on each other: alignment and uniformity, the Cauchy-Schwarz bottleneck, graphs."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.losses import PAMC, AlignmentUniformity
from lightning_losses.losses.dependence.cs_information_bottleneck import (
    conditional_divergence,
    dependence,
    log_kernel,
    quadratic_information,
)
from lightning_losses.metrics.alignment_uniformity import alignment, uniformity
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def alignment_uniformity(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        power, t = float(read.take("alpha")), float(read.take("t"))
    x, y = leaf(given["x"]), leaf(given["y"])
    both = AlignmentUniformity(power=power, t=t, uniformity_weight=0.5)(x, y)
    torch.testing.assert_close(both, alignment(x, y) + (uniformity(x) + uniformity(y)) / 4)
    aligned, uniform = alignment(x, y, power=power), uniformity(x, t=t)
    return {
        "alignment": aligned,
        "uniformity": uniform,
        **gradients(aligned, align_x=x, align_y=y),
        **gradients(uniform, unif_x=x),
    }


def bottleneck(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        sigma = read.take("sigma")
    predicted, z = leaf(given["y_pred"]), leaf(given["z"])
    of_inputs, of_z = log_kernel(given["x"], given["x"], sigma), log_kernel(z, z, sigma)
    divergence = conditional_divergence(of_inputs, predicted, given["y"], sigma, "sum_of_squares")
    information, normalised = quadratic_information(of_inputs, of_z), dependence(of_inputs, of_z)
    return {
        "cs_div": divergence,
        "cs_qmi": information.view(1, 1),
        "cs_qmi_norm": normalised.view(1, 1),
        **gradients(divergence, pred=predicted),
        **gradients(information, qmi_z=z),
        **gradients(normalised, norm_z=z),
    }


def pamc(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        loss = PAMC(t=read.take("tau"))
    z = leaf(given["z"])
    value = loss(z, given["cluster"], given["adj"])
    return {"loss": value, **gradients(value, z=z)}


ADAPTERS: dict[str, Adapter] = {
    "alignment_uniformity": alignment_uniformity,
    "cs_information_bottleneck": bottleneck,
    "pamc": pamc,
}
