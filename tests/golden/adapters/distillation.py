"""Distillation losses."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lightning_losses.losses import kd_loss
from tests.golden.adapter import Adapter, Params, gradients, leaf


def kd(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        temperature = given.take("temperature")
        ce_weight, kd_weight = given.take("ce_weight", 0.0), given.take("kd_weight", 1.0)
    student = leaf(inputs["student_logits"])
    loss = kd_weight * kd_loss(student, inputs["teacher_logits"], temperature=temperature)
    if ce_weight:
        loss = loss + ce_weight * F.cross_entropy(student, inputs["target"])
    return {"loss": loss, **gradients(loss, student=student)}


ADAPTERS: dict[str, Adapter] = {"kd": kd}
