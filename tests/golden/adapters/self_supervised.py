"""Self-supervised objectives."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.losses import BarlowTwins, DINOLoss, GlocalAlignment, MixedBarlowTwins, NegativeCosine, VICReg
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def barlow_twins(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        std = read.choice("bn_eps", {1e-5: "biased_eps"})
        loss = BarlowTwins(read.take("lambd"), std=std)
    z1, z2 = leaf(given["z1"]), leaf(given["z2"])
    value = loss(z1, z2)
    return {"loss": value, **gradients(value, z1=z1, z2=z2)}


def mixed_barlow_twins(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        redundancy_weight, mix_weight = read.take("lambd"), read.take("mix_scale")
    z1, z2, zm = (leaf(given[name]) for name in ("z1", "z2", "zm"))
    tensors = (z1, z2, zm, z2[given["perm"]], given["alpha"].expand(len(z1)))
    value = MixedBarlowTwins(redundancy_weight, mix_weight)(*tensors)
    plain = MixedBarlowTwins(redundancy_weight, 0.0)(*tensors)
    return {"loss": value, "loss_bt": plain, "loss_mix": value - plain, **gradients(value, z1=z1, z2=z2, zm=zm)}


def vicreg(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        loss = VICReg(
            read.take("sim_coeff"), read.take("std_coeff"), read.take("cov_coeff"), deviation=1.0, eps=read.take("eps")
        )
    z1, z2 = leaf(given["z1"]), leaf(given["z2"])
    value = loss(z1, z2)
    return {"loss": value, **gradients(value, z1=z1, z2=z2)}


def negative_cosine(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        p1, p2 = leaf(given["p1"]), leaf(given["p2"])
    value = NegativeCosine()(p1, p2, given["z1"], given["z2"])
    return {"loss": value, **gradients(value, p1=p1, p2=p2)}


def dino_loss(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        crops, epoch = read.take("ncrops"), read.take("epoch")
        read.take("nepochs")
        loss = DINOLoss(
            feature_dim=given["student"].shape[1],
            temperature=read.take("student_temp"),
            teacher_temperature=read.take("teacher_temp"),
            warm_up_temperature=read.take("warmup_teacher_temp"),
            warm_up_epochs=read.take("warmup_teacher_temp_epochs"),
            momentum=read.take("center_momentum"),
        ).double()
    loss.centre.copy_(given["center"][0])
    student = leaf(given["student"])
    first, second, *further = student.chunk(crops)
    targets = dict(zip(("target_embeddings", "target_embeddings_b"), given["teacher"].chunk(2), strict=True))
    value = loss(first, second, **targets, crop_embeddings=torch.stack(further, dim=1), epoch=epoch)
    loss.after_step(**targets)
    return {
        "loss": value,
        "center_after": loss.centre.unsqueeze(0),
        "teacher_temp": torch.tensor(loss.temperature_at(epoch), dtype=torch.float64),
        **gradients(value, student=student),
    }


def glocal_alignment(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        masked = leaf(given["z_masked"])
    found = {}
    for name, form in (("contrastive", "contrastive"), ("cos", "cosine")):
        value = GlocalAlignment(form, axis="reference")(masked, given["z_full"])
        found |= {name: value, f"grad_{name}": torch.autograd.grad(value, masked)[0]}
    return found


ADAPTERS: dict[str, Adapter] = {
    "barlow_twins": barlow_twins,
    "mixed_barlow_twins": mixed_barlow_twins,
    "vicreg": vicreg,
    "negative_cosine": negative_cosine,
    "dino_loss": dino_loss,
    "glocal_alignment": glocal_alignment,
}
