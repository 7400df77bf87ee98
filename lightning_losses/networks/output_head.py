"""Turns a language model's hidden states into logits: head, adapters, and scales of the configuration."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.networks.calls import unwrapped
from lightning_losses.parallel.processes import whole_parameter

# Usual names of the head, in networks without get_output_embeddings.
HEAD_NAMES = ("lm_head", "head", "output", "output_projection")
# Attributes of configurations of transformers.
_FACTORS = ("output_multiplier", "lm_head_multiplier")
_SOFTCAPS = ("final_logit_softcapping", "output_logit_soft_cap", "logits_soft_cap")
# Kinds of networks whose tied head gets hidden states divided by the root of their width.
_SCALED_IF_TIED = ("t5", "longt5", "umt5", "pop2piano", "switch_transformers", "udop")
# Kinds of networks that divide hidden states, not logits, by their configuration's `logits_scaling`.
_DIVIDED_BEFORE = ("minicpm3",)


def offered_heads(*networks: Any) -> list[nn.Module]:
    """The layers that may be a head: those of ``get_output_embeddings``, then those with usual names.

    Example:
        >>> network = nn.Module()
        >>> network.lm_head = nn.Linear(2, 3)
        >>> offered_heads(network, None)
        [Linear(in_features=2, out_features=3, bias=True)]
    """
    tell = [getattr(network, "get_output_embeddings", None) for network in networks]
    layers = [told() for told in tell if callable(told)]
    layers += [getattr(network, name, None) for network in networks for name in HEAD_NAMES]
    return [layer for layer in layers if isinstance(layer, nn.Module)]


def head_matrix(
    owner: str, head: nn.Module, scale: float = 1.0
) -> tuple[Float[Tensor, "vocabulary width"], Float[Tensor, " vocabulary"] | None]:
    """The matrix and the bias of a head, including PEFT's LoRA and `modules_to_save`.

    Args:
        owner: the name in errors.
        head: an ``nn.Linear``, a tied ``nn.Embedding``, or one of them wrapped by PEFT.
        scale: a factor for both, such as `logit_scale`.

    Returns:
        Both, gathered if they are sharded; gradients reach the adapters.

    Raises:
        ValueError: another layer, or an adapter that can't be added to the matrix.

    Example:
        >>> head_matrix("example", nn.Linear(2, 3))[0].shape
        torch.Size([3, 2])
    """
    if scale != 1.0:
        weight, bias = head_matrix(owner, head)
        return weight * scale, None if bias is None else bias * scale
    if isinstance(getattr(head, "modules_to_save", None), nn.ModuleDict):
        return head_matrix(owner, _saved(head))
    if isinstance(getattr(head, "lora_A", None), nn.ModuleDict):
        return _with_lora(owner, head)
    check_head(owner, head)
    layer: Any = head
    bias = getattr(layer, "bias", None)
    return whole_parameter(layer.weight), None if bias is None else whole_parameter(bias)


def check_head(owner: str, head: nn.Module) -> None:
    """Refuse a layer that `head_matrix` doesn't support, without computing a matrix.

    Raises:
        ValueError: that.
    """
    if isinstance(getattr(head, "modules_to_save", None), nn.ModuleDict):
        check_head(owner, _saved(head))
    elif isinstance(getattr(head, "lora_A", None), nn.ModuleDict):
        check_head(owner, head.base_layer)  # type: ignore[arg-type]
    # Compare the forward methods: FSDP2 subclasses sharded modules, and adapters override forward.
    elif type(head).forward not in (nn.Linear.forward, nn.Embedding.forward):
        raise ValueError(
            f"{owner}: the head is a {type(head).__module__}.{type(head).__name__}; give a plain nn.Linear, a tied "
            "nn.Embedding, or one of them with LoRA or as one of PEFT's modules_to_save; leave a head with other "
            "adapters out of target_modules."
        )


def logit_scale(network: Any) -> float:
    """The factor of the head's logits in a network's configuration, such as that of Granite, Cohere or T5.

    Example:
        >>> logit_scale(nn.Linear(2, 3))
        1.0
    """
    config, scale = _text_config(network), 1.0
    kind = str(getattr(config, "model_type", ""))
    own = getattr(network, "logit_scale", None)
    factors = [own if isinstance(own, float) else None, *(getattr(config, name, None) for name in _FACTORS)]
    for factor in factors:
        scale *= 1.0 if factor is None else float(factor)
    divisor = getattr(config, "logits_scaling", None)
    if divisor is not None and kind not in _DIVIDED_BEFORE:
        # In one family the value is a factor, not a divisor.
        scale = scale * divisor if kind.startswith("hyperclovax") else scale / divisor
    return float(scale) * hidden_scale(network)


def hidden_scale(network: Any) -> float:
    """The factor of the hidden states before the head in a network's configuration, such as that of T5."""
    config = _text_config(network)
    kind = str(getattr(config, "model_type", ""))
    if kind in _DIVIDED_BEFORE:
        return 1.0 / float(config.logits_scaling)
    tied = kind in _SCALED_IF_TIED and getattr(config, "tie_word_embeddings", False)
    return float(config.d_model) ** -0.5 if getattr(config, "scale_decoder_outputs", tied) else 1.0


def logit_softcap(network: Any) -> float | None:
    """s in ``s tanh(l / s)``, the softcap of the logits in a network's configuration (Gemma); None for none."""
    config = _text_config(network)
    return next((float(cap) for name in _SOFTCAPS if (cap := getattr(config, name, None)) is not None), None)


def finished_logits(network: Any, scores: Float[Tensor, "*tokens vocabulary"]) -> Float[Tensor, "*tokens vocabulary"]:
    """The head's product with the scale and softcap of the network's configuration."""
    scale, softcap = logit_scale(network), logit_softcap(network)
    logits = scores if scale == 1.0 else scores * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def check_hidden_states_reach(owner: str, network: Any, head: nn.Module) -> None:
    """Refuse a head whose input is not the output of the network's backbone.

    Raises:
        ValueError: there are layers with parameters next to the head, like BERT's transform.
    """
    whole = unwrapped(network)
    backbone = getattr(whole, "base_model", None)
    if not isinstance(backbone, nn.Module) or backbone is whole:
        return
    if beside := _beside(whole, head, backbone):
        raise ValueError(
            f"{owner}: {type(whole).__name__} has {', '.join(beside)} beside its head, which may change the hidden "
            "states on the way; pass what the head itself takes, and declare that by setting self.language_head to "
            "the head."
        )


def _saved(wrapper: Any) -> nn.Module:
    """The copy of a module that PEFT's wrapper for `modules_to_save` calls."""
    active = wrapper.active_adapter
    name = active if isinstance(active, str) else next(iter(active), None)
    off = wrapper.disable_adapters or name not in wrapper.modules_to_save
    chosen: nn.Module = wrapper.original_module if off else wrapper.modules_to_save[name]
    return chosen


def _with_lora(owner: str, layer: Any) -> tuple[Tensor, Tensor | None]:
    weight, bias = head_matrix(owner, layer.base_layer)
    if layer.merged and not layer.disable_adapters:
        return weight, bias
    for name in [] if layer.disable_adapters and not layer.merged else layer.active_adapters:
        if name not in layer.lora_A:
            continue
        drops = layer.training and getattr(layer.lora_dropout[name], "p", 0) > 0
        variant = name in getattr(layer, "lora_variant", {}) or getattr(layer, "use_dora", {}).get(name, False)
        if drops or variant or layer.merged:
            what = "lora_dropout" if drops else "DoRA or another variant" if variant else "an adapter merged and off"
            raise ValueError(
                f"{owner}: the head's LoRA '{name}' has {what}, so that it can't be added to the head's matrix; use "
                "lora_dropout=0 and no variant on the head, or leave the head out of target_modules."
            )
        weight = weight + whole_parameter(layer.get_delta_weight(name)).to(weight.dtype)
        if layer.lora_B[name].bias is not None:
            added = layer.scaling[name] * whole_parameter(layer.lora_B[name].bias)
            bias = added if bias is None else bias + added
    return weight, bias


def _text_config(network: Any) -> Any:
    config = getattr(network, "config", None)
    text = getattr(config, "get_text_config", None)
    return text(decoder=True) if callable(text) else config


def _beside(part: nn.Module, head: nn.Module, backbone: nn.Module) -> list[str] | None:
    """The layers with parameters next to the head or its parents; None if the head isn't in this part."""
    beside, within = [], None
    for name, child in part.named_children():
        if child is backbone:
            continue
        inner = [] if child is head else _beside(child, head, backbone)
        if inner is not None:
            within = [f"{name}.{layer}" for layer in inner]
        elif next(child.parameters(), None) is not None:
            beside.append(name)
    return None if within is None else beside + within
