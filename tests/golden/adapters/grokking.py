"""Interventions on gradients and weights, and their diagnostics."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.callbacks.nlm_cosine import nlm_cosine
from lightning_losses.callbacks.softmax_collapse import collapsed_rows
from lightning_losses.data.lazy_rich_polynomial import quadratic_target
from lightning_losses.diagnostics.empirical_ntk import empirical_ntk, trace_ntk
from lightning_losses.diagnostics.hessian_spectrum import hessian_product, hutchinson, lanczos
from lightning_losses.diagnostics.kernel_similarity import label_alignment, linear_cka, one_sided_alignment
from lightning_losses.diagnostics.neural_collapse import neural_collapse
from lightning_losses.losses.classification.stablemax_cross_entropy import (
    log_stablemax,
    stablemax_cross_entropy_loss,
    stablemax_scores,
)
from lightning_losses.networks.polynomial_network import PolynomialNetwork
from lightning_losses.optim.grokfast import GrokfastEMA, GrokfastMA
from lightning_losses.optim.orthogonal_gradient import orthogonalize_gradients_, with_orthogonal_gradients
from lightning_losses.optim.weight_norm import project_weight_norm_
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def numbered(inputs: Tensors, prefix: str) -> list[Tensor]:
    """Copies of ``<prefix>0``, ``<prefix>1``, ... in order."""
    found = []
    while f"{prefix}{len(found)}" in inputs:
        found.append(inputs[f"{prefix}{len(found)}"].clone())
    return found


def stablemax_cross_entropy(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        reduction = given.take("reduction")
    logits, target = leaf(inputs["logits"]), inputs["labels"]
    loss = stablemax_cross_entropy_loss(logits, target, reduction=reduction)
    return {
        "s": stablemax_scores(logits).exp(),
        "log_probs": log_stablemax(logits),
        "loss": loss,
        "loss_none": stablemax_cross_entropy_loss(logits, target, reduction="none"),
        **gradients(loss, logits=logits),
    }


def perp_grad(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    return perp_steps(inputs, params) if "base" in params else perp_gradients(inputs, params)


def perp_gradients(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        scope = given.choice("per_tensor", {True: "tensor", False: "model"})
        given.choice("eps", {1e-30: None})  # far below what float64 resolves: no difference to none
    outputs = {}
    for prefix, rescale in [("perp", True), ("perp_norescale", False)]:
        found = numbered(inputs, "g")
        orthogonalize_gradients_(numbered(inputs, "w"), found, scope=scope, rescale=rescale)
        outputs |= {f"{prefix}{number}": gradient for number, gradient in enumerate(found)}
    return outputs


def perp_steps(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        base = given.choice("base", {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW})
        steps = given.take("steps")
        names = ["lr", "momentum", "weight_decay", "betas", "eps"]
        settings = {name: given.take(name) for name in names if name in params}
    weights = [torch.nn.Parameter(weight) for weight in numbered(inputs, "w")]
    optimizer = with_orthogonal_gradients(base(weights, **settings))
    for step in range(steps):
        for weight, gradient in zip(weights, numbered(inputs, f"g{step}_"), strict=True):
            weight.grad = gradient
        optimizer.step()
    return {f"w_after{number}": weight for number, weight in enumerate(weights)}


def grokfast(grokfast_filter: GrokfastEMA | GrokfastMA, inputs: Tensors) -> Tensors:
    outputs = {}
    names = sorted({name.partition("_")[2] for name in inputs})
    for step in range(len(inputs) // len(names)):
        found = {name: inputs[f"g{step}_{name}"].clone() for name in names}
        grokfast_filter.filter_(found)
        outputs |= {f"out{step}_{name}": gradient for name, gradient in found.items()}
    return outputs


def grokfast_ema(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        grokfast_filter = GrokfastEMA(alpha=given.take("alpha"), lamb=given.take("lamb"))
    return grokfast(grokfast_filter, inputs)


def grokfast_ma(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        grokfast_filter = GrokfastMA(
            window_size=given.take("window_size"),
            lamb=given.take("lamb"),
            filter_type=given.take("filter_type"),
            warmup=given.take("warmup"),
        )
    return grokfast(grokfast_filter, inputs)


def weight_norm_projection(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        norm = given.take("target_norm")
    weights = numbered(inputs, "w")
    project_weight_norm_(weights, norm)
    return {f"w_after{number}": weight for number, weight in enumerate(weights)}


def softmax_collapse(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        given.take("cast")  # the definition in words
    precisions = ["float16", "bfloat16", "float32", "float64"]
    shares = {name: collapsed_rows(inputs["logits"], getattr(torch, name)).double().mean() for name in precisions}
    return {f"sc_{name}": share for name, share in shares.items()}


def nlm(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        given.choice("sign", {"cosine of the descent direction -g with w": None})
    whole, each = nlm_cosine(numbered(inputs, "w"), numbered(inputs, "g"))
    return {"global_cos": whole, "per_tensor": each}


def tiny_network(inputs: Tensors, params: dict[str, Any]) -> torch.nn.Sequential:
    """The two-layer tanh network whose weights a case gives."""
    with Params(params) as given:
        given.take("net")  # the architecture in words; the shapes of the weights say it
    hidden, features = inputs["0_weight"].shape
    linear = torch.nn.Linear
    network = torch.nn.Sequential(linear(features, hidden), torch.nn.Tanh(), linear(hidden, len(inputs["2_bias"])))
    network.double()
    state = {name.replace("_", "."): tensor for name, tensor in inputs.items() if name[:2] in ("0_", "2_")}
    network.load_state_dict(state)
    return network


def hessian_spectrum(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    network = tiny_network(inputs, params)
    loss = torch.nn.functional.cross_entropy(network(inputs["x"]), inputs["labels"])
    weights = list(network.parameters())
    size = sum(weight.numel() for weight in weights)
    product = hessian_product(loss, weights)
    values = lanczos(product, size, steps=size, dtype=torch.float64).values
    trace, square = hutchinson(product, size, probes=None, dtype=torch.float64)
    largest = values[values.abs().argmax()]
    return {
        "loss": loss,
        "lambda_max": largest,
        "pyhessian_top": largest,
        "lambda_max_algebraic": values[-1],
        "lambda_min": values[0],
        "trace": torch.tensor(trace.value),
        "frobenius": torch.tensor(square.value).sqrt(),
    }


def collapse(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        classes = given.take("C")
    if len(inputs["weight"]) != classes:
        raise ValueError(f"{classes} classes are named, {len(inputs['weight'])} rows of weights given")
    found = neural_collapse(inputs["features"], inputs["labels"], inputs["weight"], inputs["bias"])
    names = {"nc1": "nc1_trace", "nc1_per_class": "nc1_pinv_over_C", "nc3": "nc3_duality", "nc4": "nc4_mismatch"}
    return {names.get(name, name): value for name, value in found.items()}


def ntk(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    network, x = tiny_network(inputs, params), inputs["x"]
    kernel = trace_ntk(network, x)
    labels = torch.nn.functional.one_hot(inputs["labels"]).to(kernel)
    return {
        "ntk_full": empirical_ntk(network, x),
        "ntk_trace": kernel,
        "alignment_uncentred": label_alignment(kernel, labels, centred=False),
        "cka": label_alignment(kernel, labels),
    }


def cka(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        return {"cka": linear_cka(inputs["x"], inputs["y"])}


def lazy_rich(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        alpha, epsilon = given.take("alpha"), given.take("epsilon")
        given.choice("input_law", {"x ~ N(0, I/D)": None})
    hidden, features = inputs["w"].shape
    network = PolynomialNetwork(features, hidden=hidden, alpha=alpha, epsilon=epsilon).double()
    network.load_state_dict({"weight": inputs["w"]})
    x, target = inputs["x"], quadratic_target(inputs["x"], inputs["beta"])
    kernel = network.kernel(x, x)
    errors = network.expected_error(inputs["beta"])
    return {
        "output": network(x).squeeze(1),
        "ntk": kernel,
        "target": target,
        "cka_double_centred": label_alignment(kernel, target.unsqueeze(1)),
        "cka_reference_notebook": one_sided_alignment(kernel, target),
        **{f"test_mse_{name}": value for name, value in errors.items()},
    }


ADAPTERS: dict[str, Adapter] = {
    "stablemax_cross_entropy": stablemax_cross_entropy,
    "perp_grad": perp_grad,
    "grokfast_ema": grokfast_ema,
    "grokfast_ma": grokfast_ma,
    "hessian_spectrum": hessian_spectrum,
    "neural_collapse": collapse,
    "empirical_ntk": ntk,
    "linear_cka": cka,
    "lazy_rich_polynomial": lazy_rich,
    "softmax_collapse": softmax_collapse,
    "nlm_cosine": nlm,
    "weight_norm_projection": weight_norm_projection,
}
