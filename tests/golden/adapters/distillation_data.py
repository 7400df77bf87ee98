"""What distillation does to data, gradients and weights, apart from losses."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.callbacks.interventions.weight_aligning import align_weight
from lightning_losses.data.topk_soft_label import restore_soft_label
from lightning_losses.losses.distillation.self_taught.self_distill_gt import kernel_generations, optimal_alpha
from lightning_losses.optim.gradient_alignment import aligned_gradients
from lightning_losses.samplers import (
    difference_sampling,
    difference_scores,
    initial_domain_weights,
    robust_active_distribution,
    updated_domain_weights,
)
from tests.golden.adapter import Adapter, Params


def gradient_alignment(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        # Which of the two is the main one; the adapter's inputs name it.
        given.choice("reference_objective", {0: None})
    return {"grad_merged": aligned_gradients([inputs["grad_main"]], [inputs["grad_aux"]])[0]}


def difference(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        ratio = given.take("ratio")
    losses = inputs["loss_teacher"], inputs["loss_reference"]
    return {"scores": difference_scores(*losses), "kept_indices": difference_sampling(*losses, ratio=ratio)}


def weight_aligning(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        aligned = align_weight(inputs["weight"], given.take("new_classes"))
    return {"weight_aligned": aligned.weight, "gamma": aligned.gamma}


def soft_label(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        kind, k, classes = given.take("kind"), given.take("k"), given.take("num_classes")
    return {"probs": restore_soft_label(inputs["index"][..., :k], inputs["value"][..., :k], classes, kind=kind)}


def ddk(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        alpha = given.take("alpha")
    rounds = list(zip(inputs["student_ce"], inputs["teacher_ce"], strict=True))
    factors = [initial_domain_weights(*rounds[0])]
    for student, teacher in rounds[1:]:
        factors.append(updated_domain_weights(factors[-1], student, teacher, alpha=alpha))
    return {"factors": torch.stack(factors)}


def robust_active(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        result = robust_active_distribution(inputs["gain"], given.take("num_errors"))
    return {"probs": result.probabilities, "value": result.value, "support": torch.tensor(result.support)}


def self_distill(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        alpha, ridge, steps = given.take("alpha"), given.take("ridge"), given.take("steps")
    kernels = inputs["kernel_train"], inputs["kernel_val"]
    result = kernel_generations(*kernels, inputs["y"], alpha=alpha, ridge=ridge, steps=steps)
    best = [torch.ones((), dtype=inputs["y"].dtype)]  # the first generation has no teacher
    for fit in result.fits[:-1]:
        by_teacher = kernel_generations(*kernels, fit, alpha=1.0, ridge=ridge, steps=1).val_fits[0]
        best.append(optimal_alpha(result.val_fits[0], by_teacher, inputs["y_val"]))
    return {**result._asdict(), "alpha_opt": torch.stack(best)}


ADAPTERS: dict[str, Adapter] = {
    "gradient_alignment": gradient_alignment,
    "difference_sampling": difference,
    "weight_aligning": weight_aligning,
    "topk_soft_label": soft_label,
    "ddk_sampler": ddk,
    "robust_active_sampler": robust_active,
    "self_distill_gt": self_distill,
}
