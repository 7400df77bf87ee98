"""Interventions on gradients and weights, and their diagnostics."""

import math
import re
from typing import Any

import torch
from torch import Tensor

from lightning_losses.callbacks.monitors.nlm_cosine import nlm_cosine
from lightning_losses.callbacks.monitors.softmax_collapse import collapsed_rows
from lightning_losses.data.lazy_rich_polynomial import quadratic_target
from lightning_losses.diagnostics.continual_accuracy import (
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)
from lightning_losses.diagnostics.diffusion_spectral_entropy import (
    diffusion_spectral_entropy,
    diffusion_spectral_information,
)
from lightning_losses.diagnostics.empirical_ntk import empirical_ntk, trace_ntk
from lightning_losses.diagnostics.hessian_spectrum import hessian_product, hutchinson, lanczos
from lightning_losses.diagnostics.kernel_similarity import label_alignment, linear_cka, one_sided_alignment
from lightning_losses.diagnostics.learning_rate_sensitivity import learning_rate_sensitivity
from lightning_losses.diagnostics.linear_mode_connectivity import loss_barrier
from lightning_losses.diagnostics.mahalanobis_score import mahalanobis_distances
from lightning_losses.diagnostics.mutual_information import (
    adaptive_bins,
    adaptive_edges,
    binned_information,
    fixed_bins,
    kde_entropy,
    kde_information,
    knn_entropy,
    uniform_bins,
)
from lightning_losses.diagnostics.neural_collapse import neural_collapse
from lightning_losses.losses.classification.stablemax_cross_entropy import (
    StableMaxCrossEntropy,
    log_stablemax,
    stablemax_scores,
)
from lightning_losses.losses.regularization.z_loss import ZLoss
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
    loss = StableMaxCrossEntropy(reduction=reduction)(logits, target)
    return {
        "s": stablemax_scores(logits).exp(),
        "log_probs": log_stablemax(logits),
        "loss": loss,
        "loss_none": StableMaxCrossEntropy(reduction="none")(logits, target),
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


_NATS = {"nats": 1.0, "bits": 1 / math.log(2)}


def binned(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        width, edges = given.take("binsize"), given.take("num_of_bins")
        unit = given.choice("units", _NATS)
    activity, labels = inputs["activity"], inputs["labels"]
    symbols, uniform = fixed_bins(activity, width), uniform_bins(activity, edges)
    # What repeated inputs leave open is not information about them.
    _, same = torch.unique(inputs["inputs"], dim=0, return_inverse=True)
    found = binned_information(symbols, labels)
    return {
        "h_layer": torch.tensor(unit * found.input, dtype=torch.float64),
        "mi_labels": torch.tensor(unit * found.label, dtype=torch.float64),
        "mi_input_linspace": torch.tensor(unit * binned_information(uniform, same).label, dtype=torch.float64),
    }


def adaptive(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        bins, low = given.take("bins"), given.take("low_edge")
        unit = given.choice("units", _NATS)
    found = binned_information(adaptive_bins(inputs["activity"], bins, low), inputs["labels"])
    return {
        "edges": adaptive_edges(inputs["activity"], bins, low),
        "h_layer": torch.tensor(unit * found.input, dtype=torch.float64),
        "mi_labels": torch.tensor(unit * found.label, dtype=torch.float64),
    }


def kde(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        variance, unit = given.take("var"), given.choice("units", _NATS)
    activity = inputs["activity"]
    found = kde_information(activity, inputs["labels"], variance)
    values = {
        "h_upper": kde_entropy(activity, variance),
        "h_lower": kde_entropy(activity, variance, upper=False),
        "mi_input_upper": found.input,
        "mi_label_upper": found.label,
    }
    return {name: torch.tensor(unit * value, dtype=torch.float64) for name, value in values.items()}


def knn(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        neighbours, unit = given.take("k"), given.choice("units", _NATS)
        given.choice("norm", {"euclidean": None})
    return {"entropy": torch.tensor(unit * knn_entropy(inputs["x"], neighbours), dtype=torch.float64)}


class Named(dict[str, Tensor]):
    """Outputs whose names say their settings: each is computed when it is asked for."""

    def __init__(self, pattern: str, compute: Any) -> None:
        super().__init__()
        self.pattern, self.compute = re.compile(pattern), compute

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.pattern.fullmatch(name) is not None

    def __getitem__(self, name: str) -> Tensor:
        match = self.pattern.fullmatch(name)
        if match is None:
            raise KeyError(name)
        return torch.tensor(self.compute(*match.groups()), dtype=torch.float64)


def dse(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        given.choice("units", {"bits": None})
        given.choice("name", {"dse_t<t>_s<sigma>": None})
    number = r"([\d.]+)"

    def compute(power: str, bandwidth: str) -> float:
        return diffusion_spectral_entropy(inputs["vectors"], bandwidth=float(bandwidth), power=float(power))

    return Named(f"dse_t{number}_s{number}", compute)


def dsmi(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        settings = {"bandwidth": given.take("sigma"), "power": given.take("t")}
        repetitions = given.take("num_repetitions")
    points, labels = inputs["vectors"], inputs["labels"]
    classes, counts = torch.unique(labels, return_counts=True)
    # The subsets are random: more of them than the case's come nearer to what it estimates.
    generator = torch.Generator().manual_seed(0)
    found = diffusion_spectral_information(
        points, labels, repetitions=20 * repetitions, generator=generator, **settings
    )
    given_label = [diffusion_spectral_entropy(points[labels == label], **settings) for label in classes]
    return {
        "dse_given_label": torch.tensor(given_label, dtype=torch.float64),
        "class_counts": counts,
        "dsmi_reference_subsampling": torch.tensor(found, dtype=torch.float64),
    }


def continual_windowed(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        windows = given.take("windows")
    outputs = {}
    for window in windows:
        fall = windowed_forgetting(inputs["accuracy"], window)
        rise = windowed_plasticity(inputs["accuracy"], window)
        outputs |= {f"forgetting_{window}": fall, f"plasticity_{window}": rise, f"plasticity_ref_code_{window}": rise}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in outputs.items()}


def continual_worst_case(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        given.take("convention")  # the definition in words
    minima, worst = worst_case_accuracy(inputs["accuracy"], inputs["current_task"])
    return {"min_acc_avg": minima, "wc_acc": worst}


def lr_sensitivity(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        given.choice("grid", {"plain mean over a log-spaced grid": None})
    value = learning_rate_sensitivity(inputs["final_losses"].tolist(), inputs["initial_loss"].item())
    return {"lr_sensitivity": torch.tensor(value, dtype=torch.float64)}


def linear_mode_connectivity(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        found = loss_barrier(inputs["alphas"].tolist(), inputs["losses"].tolist())
    names = ["barrier_linear", "barrier_mean_endpoints", "argmax"]
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in zip(names, found, strict=True)}


def mahalanobis(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        given.choice("tied_covariance", {True: None})
    distances = mahalanobis_distances(inputs["features"], inputs["labels"], inputs["query"])
    return {"distances": distances, "score": -0.5 * distances.amin(dim=1)}


def z(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        coefficient = given.take("coefficient")
    logits = leaf(inputs["logits"])
    loss = ZLoss(coefficient=coefficient)(logits)
    return {"loss": loss, **gradients(loss, logits=logits)}


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
    "binned_mutual_information": binned,
    "adaptive_binned_mutual_information": adaptive,
    "kde_mutual_information": kde,
    "knn_entropy": knn,
    "diffusion_spectral_entropy": dse,
    "diffusion_spectral_mutual_information": dsmi,
    "continual_windowed": continual_windowed,
    "continual_worst_case": continual_worst_case,
    "lr_sensitivity": lr_sensitivity,
    "linear_mode_connectivity": linear_mode_connectivity,
    "mahalanobis_score": mahalanobis,
    "z_loss": z,
    "softmax_collapse": softmax_collapse,
    "nlm_cosine": nlm,
    "weight_norm_projection": weight_norm_projection,
}
