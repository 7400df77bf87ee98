"""Methods that train language models."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.kernels.linear_emo import linear_emo
from lightning_losses.losses import EMO, AttentionEntropyRegularizer, CrossEntropy, NoiseFiT
from lightning_losses.networks.softplus_attention import softplus_attention, softplus_weights
from lightning_losses.numerics.adaptive_noise import adaptive_noise
from lightning_losses.optim.dynamic_ema import DynamicAverage
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def emo(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    modes = {"emo1_adaptive": ("emo1", False), "emo2_adaptive": ("emo2", False), "emo2_fixed": ("emo2", True)}
    with Params(params) as given:
        mode, fixed = given.choice("mode", modes)
    hidden, weight, target = leaf(inputs["hidden"]), leaf(inputs["lm_head_weight"]), inputs["labels"][:, 1:]
    cost = inputs["cost_embedding"] if fixed else weight
    loss = EMO(mode)
    value = loss((hidden @ weight.T)[:, :-1], target, cost)
    fused = linear_emo(loss, hidden[:, :-1], weight, target, cost_embedding=cost if fixed else None, chunk=3)
    torch.testing.assert_close(fused, value, rtol=1e-12, atol=1e-12)
    got = gradients(value, hidden=hidden, lm_head=weight)
    torch.testing.assert_close(gradients(fused, hidden=hidden, lm_head=weight), got, rtol=1e-12, atol=1e-12)
    return {"loss": value, **got}


def attention_entropy(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        coefficient, tolerance = given.take("loss_coeff"), given.take("tolerance_margin_factor")
        log_eps = given.take("log_eps")
        # In words; a sample's value is a mean over its queries here.
        given.choice("reduction", {"sum over batch and query positions, mean over heads, mean over layers": None})
    scores = leaf(inputs["attn_scores"])
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    attentions = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1).transpose(0, 1)
    layers, heads = attentions.shape[1:3]
    loss = AttentionEntropyRegularizer(layers, heads, tolerance, log_eps=log_eps, reduction="sum").double()
    with torch.no_grad():
        loss.thresholds.copy_(inputs["head_thresholds"].expand(layers, heads))
    value = coefficient * attentions.shape[-2] * loss(attentions)
    return {"loss": value, **gradients(value, scores=scores)}


def noisefit(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    return noise(inputs, params) if "base_std" in params else hybrid_loss(inputs, params)


def noise(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        # The code multiplies by a gate in single precision first.
        std = torch.tensor(given.take("base_std") * given.take("noise_scale"), dtype=torch.float32)
        settings = {"beta": given.take("beta"), "gate": given.take("noise_gate")}
        given.choice("branch", {"logits=None (variance factor)": None})
    hidden = inputs["hidden"]
    return {"noisy_hidden": hidden + adaptive_noise(hidden, inputs["standard_normal"], std, **settings)}


def hybrid_loss(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        alpha, temperature = given.take("hybrid_loss_alpha"), given.take("temperature")
        consistency = given.take("lambda_consistency")
    clean, first, second = (leaf(inputs[name]) for name in ("clean_logits", "noisy_logits_1", "noisy_logits_2"))
    labels = inputs["labels"]
    # The code compares labels with the logits of the token before, but ignores by those in place.
    likelihood = CrossEntropy()(clean[:, :-1], labels[:, 1:])
    value = alpha * likelihood + NoiseFiT(1 - alpha, consistency, temperature)(clean, first, second, labels)
    return {"loss": value, **gradients(value, clean=clean, noisy_1=first, noisy_2=second)}


def softplus(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        power = given.take("p")
        given.choice("offset", {"1 except 0 for the first 3 rows": None})
        given.choice("causal", {True: None})
    query, key, value = (inputs[name] for name in "qkv")
    weights = softplus_weights(query, key, power=power)
    return {
        "lssa_weights": weights.lssa,
        "lssar_weights": weights.lssar,
        "lssa_out": softplus_attention(query, key, value, power=None),
        "lssar_out": softplus_attention(query, key, value, power=power),
    }


def dynamic_ema(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        given.choice("norm", {"L1": None})
        average = DynamicAverage(given.take("fallback_alpha"))
    steps = []
    # The code's weights are in single precision.
    for weight, gradient in zip(inputs["params"].float(), inputs["grads"].float(), strict=True):
        average.update_({"weight": weight}, {"weight": gradient})
        steps.append(average.average["weight"].clone())
    return {"ema": torch.stack(steps)}


ADAPTERS: dict[str, Adapter] = {
    "emo": emo,
    "attention_entropy_regularizer": attention_entropy,
    "noisefit": noisefit,
    "softplus_attention": softplus,
    "dynamic_ema": dynamic_ema,
}
