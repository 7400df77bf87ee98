"""Language-model losses."""

from functools import partial

import torch
import torch.nn.functional as F

from lightning_losses.kernels.cross_entropy.recompute import Tiling, filtered_tiles
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.linear_distillation import linear_distillation
from lightning_losses.kernels.vocab_parallel import vocabulary_range
from lightning_losses.losses import GeneralizedJSD
from lightning_losses.numerics.reduction import reduce
from tests.golden.adapter import Params, gradients, leaf


def cross_entropy_adapter(impl, cast=torch.float64, rows_impl=None, **options):
    """An adapter that evaluates by one implementation, in the dtype that it takes; per row by another, if it must."""

    def adapt(inputs, params):
        with Params(params) as given:
            shift, reduction = given.take("shift"), given.take("reduction")
            settings = {
                "softcap": given.take("softcap"),
                "ignore_index": given.take("ignore_index"),
                "label_smoothing": given.take("label_smoothing"),
                "shift": shift,
                "reduction": reduction,
            }
            z_weight = given.take("z_loss_weight")
            half = given.take("bf16_inputs")
        dtype = torch.bfloat16 if half else cast
        leaves = {
            name: leaf(inputs[key].to(dtype))
            for name, key in (("e", "e"), ("c", "c"), ("bias", "bias"))
            if key in inputs
        }
        call = (leaves["e"], leaves["c"], inputs["targets"], leaves.get("bias"))
        settings |= {"class_weight": inputs.get("class_weight"), **options}
        loss = linear_cross_entropy(*call, z_loss=z_weight, impl=impl, **settings)
        # A z-loss of weight 1 shows the mean of lse^2, and what is left is the cross-entropy alone.
        probe = linear_cross_entropy(
            *call, z_loss=1.0, return_z_loss=True, return_lse=True, impl=rows_impl or impl, **settings
        )
        scalar = (loss * inputs["grad_out"].to(loss.dtype)).sum() if "grad_out" in inputs else loss
        made = {name: value.double() for name, value in gradients_once(scalar, leaves).items()}
        return {
            "loss": loss.double(),
            "ce": (probe.loss - probe.z_loss).double(),
            "z": probe.z_loss.double(),
            "lse": probe.lse.double(),
            **made,
        }

    return adapt


def gradients_once(value, leaves):
    """Gradients by one backward pass: an implementation may give them away only once."""
    found = torch.autograd.grad(value, list(leaves.values()))
    return {f"grad_{name}": gradient for name, gradient in zip(leaves, found, strict=True)}


def gradient_filter(inputs, params):
    with Params(params) as given:
        eps, tokens, vocabulary = (given.take(name) for name in ("filter_eps", "block_tokens", "block_vocab"))
        reduction = given.take("reduction")
    outputs = {}
    for name, settings in (
        ("exact", {"filter_eps": None}),
        ("filtered_unsorted", {"filter_eps": eps}),
        ("filtered_sorted", {"filter_eps": eps, "sort_vocabulary": True}),
    ):
        e, c = leaf(inputs["e"]), leaf(inputs["c"])
        value = linear_cross_entropy(
            e, c, inputs["targets"], reduction=reduction, impl="recompute", chunk=(tokens, vocabulary), **settings
        )
        made = gradients(value, e=e, c=c)
        outputs |= {f"grad_e_{name}": made["grad_e"], f"grad_c_{name}": made["grad_c"]}
    for name, sort in (("unsorted", False), ("sorted", True)):
        order, kept = filtered_tiles(
            inputs["e"], inputs["c"], inputs["targets"], tiling=Tiling(tokens, vocabulary, eps, sort)
        )
        outputs[f"kept_{name}"] = kept
    return {**outputs, "vocab_order": order}


def fused_linear_distillation(inputs, params):
    with Params(params) as given:
        weights = {"hard_weight": given.take("weight_hard_loss"), "soft_weight": given.take("weight_soft_loss")}
        beta, temperature = given.take("beta"), given.take("temperature")
    # Nothing but the note tells which objective a case has.
    cosine = "cosine" in params["note"]
    jsd = GeneralizedJSD(beta, temperature)
    objective = partial(cosine_loss, beta=beta, temperature=temperature) if cosine else jsd
    hidden, weight = leaf(inputs["student_input"]), leaf(inputs["student_weight"])
    value = linear_distillation(
        hidden,
        weight,
        inputs["teacher_input"],
        inputs["teacher_weight"],
        inputs["labels"],
        objective=objective,
        chunk=3,
        **weights,
    )
    return {
        "loss": value.loss,
        "soft_loss": value.soft,
        "hard_loss": value.hard,
        **gradients_once(value.loss, {"student_input": hidden, "student_weight": weight}),
    }


def cosine_loss(logits, teacher_logits, *, beta, temperature, reduction):
    """Not a loss of the library: the engine takes any row-wise function."""
    value = beta * (1 - F.cosine_similarity(logits / temperature, teacher_logits / temperature, dim=-1))
    return reduce(value, reduction)


def vocab_parallel(inputs, params):
    with Params(params):
        rows = [vocabulary_range(*map(int, row)) for row in inputs["n_rank_world"]]
    return {"start_stop": torch.tensor([[r.start, r.stop] for r in rows])}


ADAPTERS = {
    "linear_cross_entropy": cross_entropy_adapter("chunked", chunk=3),
    "cce_gradient_filter": gradient_filter,
    "fused_linear_distillation": fused_linear_distillation,
    "vocab_parallel": vocab_parallel,
}
