"""What every loss must keep, whatever it computes: a new loss is covered by being there."""

import inspect
import pickle
import re
from functools import cache
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.parameter import is_lazy

import lightning_losses.losses as losses
from lightning_losses.losses.kinds import EmbeddingLoss
from lightning_losses.numerics import probabilities
from lightning_losses.numerics.checks import debug
from lightning_losses.objective import Objective
from tests.each import each
from tests.losses.examples import (
    BATCH,
    CLASSES,
    build,
    constructor_options,
    floating,
    takes,
    tensors,
    trained,
    with_gradients,
)

ROOT = Path(__file__).parents[2]

# Losses with parts that are constants by definition, so that their gradient is not that of their value; their own
# tests have it in closed form.
CONSTANT_PARTS = {
    "uskd": "its soft labels are made from the student, without gradient",
    "adaptive_kl": "its weights are made from the student, without gradient",
    "bias_loss": "its weights are made from the feature maps, without gradient",
    "asymmetric": "its focusing weight is a constant, as the authors have it",
    "multi_focal_modifier": "likewise",
    "multi_grained_focal": "likewise",
    "reflective_label_corrector": "its focusing weight, and the labels that it adds, are constants",
    "ensloss": "its slopes are drawn; its value is another loss's",
    "dann": "the gradient by its features is turned around",
    "group_dro": "its weights are made from the losses, without gradient",
    "hyp_ce": "its draws have no gradient, and that by points of the ball is scaled by the metric",
    "hyp_pc": "its gradient by points of the ball is scaled by the metric",
    "madacos": "its scale and margin are made from the batch, without gradient",
    "elr": "its targets are moved by the prediction, without gradient",
    "aldr_kl": "its temperature is made from the scores, without gradient",
    "adaptive_alpha_divergence": "its gradient is that of a surrogate with cut weights",
    "sae_auxk": "the error that it explains is a constant",
    "satimp": "its weights are made from the probabilities, without gradient",
    "wga": "likewise",
    "emo": "the ratio of its two parts, and the target's share of the distance, have no gradient",
    "beta_nll": "the weight that it makes of the variance has no gradient",
    "cispo": "the weights that it makes of ratios have no gradient",
    "vespo": "likewise",
    "hypo": "the weights of its completions' scores are constants",
    "f_dpg": "all but the log-probability is constant, as its authors have it",
}

# Some losses are defined in float64 whatever comes in.
FULL = (torch.float32, torch.float64)

# What has an entry for each class.
CLASS_WISE = (
    "logits",
    "logits_b",
    "multi_hot",
    "noisy_logits",
    "noisy_logits_b",
    "attacked_logits",
    "teacher_logits",
    "distillation_logits",
    "mixup_logits",
    "mixup_target",
    "past_probabilities",
)

EVERY = losses.loss_classes()

# Their labels are compared among themselves; they may be any numbers.
OF_ANY_LABELS = (
    "crd",
    "clip_contrastive",
    "pamc",
    *(loss.identifier() for loss in EVERY if issubclass(loss, EmbeddingLoss)),
)


def those(*inputs, without=(), options=(), but=()):
    """Parametrise over the losses that take these tensors and have these options."""
    chosen = [
        loss
        for loss in EVERY
        if set(inputs) <= set(loss.inputs())
        and not set(without) & set(loss.inputs())
        and all(takes(loss, option) for option in options)
        and loss.identifier() not in but
    ]
    return pytest.mark.parametrize("loss", chosen, ids=lambda loss: loss.identifier())


def finite(value, gradients):
    return bool(torch.isfinite(value).all()) and all(bool(torch.isfinite(g).all()) for g in gradients.values())


def zero(gradients):
    return all(bool((gradient == 0).all()) for gradient in gradients.values())


def some_rows(values, rows):
    """The same tensors with these samples only."""
    return {
        name: value[rows] if isinstance(value, torch.Tensor) and value.ndim and len(value) == BATCH else value
        for name, value in values.items()
    }


# ---- precision


@those()
@each("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_widened(loss, dtype):
    module = build(loss).float()
    values = {**tensors(loss), **{name: value.to(dtype) for name, value in floating(tensors(loss)).items()}}
    widened = {**values, **{name: value.float() for name, value in floating(values).items()}}
    result = module(**values)
    assert result.dtype in FULL
    # Widening is exact, so the same arithmetic follows: nothing but rounding in float32 may differ.
    torch.testing.assert_close(result, module(**widened), rtol=1e-6, atol=1e-6)


@those()
def test_autocast_does_not_narrow(loss):
    module = build(loss).float()
    values = {**tensors(loss), **{name: value.float() for name, value in floating(tensors(loss)).items()}}
    leaves = [values[name].requires_grad_() for name in trained(values)]
    with torch.autocast("cpu", torch.bfloat16):
        result = module(**values)
    assert result.dtype in FULL
    # Parameters of a loss are layers, which autocast is meant for: bfloat16 has 8 bits.
    tolerance = 2e-2 if list(module.parameters()) else 1e-6
    expected = module(**values)
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)
    slopes, wanted = (torch.autograd.grad(value, leaves, allow_unused=True) for value in (result, expected))
    torch.testing.assert_close(slopes, wanted, rtol=tolerance, atol=tolerance)


@those()
def test_float64_stays(loss):
    assert build(loss)(**tensors(loss)).dtype == torch.float64


@those(but=CONSTANT_PARTS)
def test_gradient_is_that_of_the_value(loss):
    module, values = build(loss), tensors(loss)
    names = list(trained(values))

    def evaluate(*leaves):
        return module(**{**values, **dict(zip(names, leaves, strict=True))})

    assert torch.autograd.gradcheck(evaluate, [values[name].requires_grad_() for name in names])


# Torch's distances have no forward derivative, and say so; torch itself loads its rules with what it deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
@those(but=("rkd", "sinkd"))
def test_derivatives_in_forward_mode_are_those_in_backward_mode(loss):
    module, values = build(loss).eval(), tensors(loss)
    _, gradients = with_gradients(module, values)
    leaves = trained(values)
    directions = {name: torch.linspace(-1, 1, leaf.numel()).to(leaf).view_as(leaf) for name, leaf in leaves.items()}
    _, slope = torch.func.jvp(lambda moved: module(**{**values, **moved}).sum(), (leaves,), (directions,))
    torch.testing.assert_close(slope, sum((gradients[name] * directions[name]).sum() for name in leaves))


@those()
def test_transforms_of_torch_func_see_what_autograd_sees(loss):
    module, examples = build(loss).eval(), [tensors(loss), tensors(loss, seed=1)]
    together = {name: value for name, value in examples[0].items() if isinstance(value, torch.Tensor) and value.ndim}
    shared = {name: value for name, value in examples[0].items() if name not in together}
    names = trained(examples[0]).keys()

    def evaluate(moved, given):
        return module(**{**shared, **given, **moved}).sum()

    stacked = {name: torch.stack([one[name] for one in examples]) for name in together}
    moved, given = ({n: v for n, v in stacked.items() if (n in names) == chosen} for chosen in (True, False))
    # The same random numbers as one by one.
    torch.manual_seed(2)
    slopes = torch.func.vmap(torch.func.grad(evaluate), randomness="same")(moved, given)
    for number, values in enumerate(examples):
        torch.manual_seed(2)
        for name, wanted in with_gradients(module, {**values, **shared})[1].items():
            torch.testing.assert_close(slopes[name][number], wanted)


@those()
def test_layout_in_memory_does_not_matter(loss):
    module, values = build(loss), tensors(loss)
    strided = {name: value.t().contiguous().t() for name, value in floating(values).items() if value.ndim == 2}
    assert all(not value.is_contiguous() for value in strided.values())
    value, gradients = with_gradients(module, values)
    other, others = with_gradients(module, {**values, **strided})
    # Sums may run in another order.
    torch.testing.assert_close(other, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(others, gradients, rtol=1e-12, atol=1e-12)


@those()
def test_a_device_whose_values_are_not_read_gives_the_same(loss, monkeypatch):
    module, values = build(loss), tensors(loss)
    value, gradients = with_gradients(module, values)
    monkeypatch.setattr("lightning_losses.numerics.probabilities._read", lambda *_: None)
    other, others = with_gradients(module, values)
    # The masks that are left out on the CPU mask nothing; sums may be formed another way.
    torch.testing.assert_close(other, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(others, gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.one_graph
@those()
def test_it_compiles_to_one_graph(loss):
    torch._dynamo.reset()
    values = tensors(loss)
    expected = build(loss)(**values)
    # The backend runs the graph as it was traced: what is in question is that it is one.
    compiled = torch.compile(build(loss), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**values), expected, rtol=1e-12, atol=1e-12)


# ---- ignored samples


@those("target", options=["ignore_index"])
def test_ignored_rows_are_as_if_absent(loss):
    module, values = build(loss), tensors(loss)
    kept = torch.tensor([0, 2, 3, 5])
    ignored = torch.tensor([1, 4])
    values["target"][ignored] = -100
    value, gradients = with_gradients(module, values)
    alone, alones = with_gradients(module, some_rows(values, kept))
    # Sums run over the same numbers and zeros.
    torch.testing.assert_close(value, alone, rtol=1e-10, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient[kept], alones[name], rtol=1e-10, atol=1e-12)
        assert bool((gradient[ignored] == 0).all())


@those("target", options=["ignore_index"])
def test_probabilities_that_are_all_0_are_as_if_absent(loss):
    """Where a loss takes probabilities: nothing is known of such a row, as of a mixture of ignored samples."""
    module, values = build(loss), tensors(loss)
    kept, ignored = torch.tensor([0, 2, 3, 5]), torch.tensor([1, 4])
    for tensor in floating(values).values():
        if len(tensor) == BATCH:
            tensor[ignored] = torch.nan
    classes = torch.randn(BATCH, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values["target"] = classes.softmax(dim=-1).index_fill(0, ignored, 0.0)
    try:
        value, gradients = with_gradients(module, values)
    except ValueError as error:
        assert "a target of probabilities came" in str(error) or "give [B] class indices, or none" in str(error)
        return
    if owned := list(module.parameters()):
        assert finite(value, dict(enumerate(torch.autograd.grad(module(**values), owned))))
    alone, alones = with_gradients(module, some_rows(values, kept))
    torch.testing.assert_close(value, alone, rtol=1e-10, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient[kept], alones[name], rtol=1e-10, atol=1e-12)
        assert bool((gradient[ignored] == 0).all())
    if takes(loss, "reduction"):
        assert int(module.denominator(**values)) == len(kept)


@those("target", options=["ignore_index"])
@each("garbage", [torch.nan, torch.inf, -torch.inf])
def test_ignored_rows_may_hold_anything(loss, garbage):
    module, values = build(loss), tensors(loss)
    values["target"][1] = -100
    value = module(**values)
    for tensor in floating(values).values():
        if len(tensor) == BATCH:
            tensor[1] = garbage
    assert torch.equal(module(**values), value)
    assert finite(*with_gradients(module, values))


@those("target", options=["ignore_index"])
def test_ignore_index_may_be_a_class(loss):
    values = tensors(loss)
    values["target"] = torch.tensor([0, 1, 2, 3, 0, 1])
    other = {**values, "target": values["target"].masked_fill(values["target"] == 0, -100)}
    assert torch.equal(build(loss, ignore_index=0)(**values), build(loss)(**other))


@those("target", options=["ignore_index"])
def test_all_ignored_gives_zero(loss):
    module, values = build(loss), tensors(loss)
    values["target"] = torch.full_like(values["target"], -100)
    value, gradients = with_gradients(module, values)
    assert bool((value == 0).all())
    assert zero(gradients)
    module(**{**values, **{name: value.requires_grad_() for name, value in trained(values).items()}}).sum().backward()
    assert zero({name: p.grad for name, p in module.named_parameters() if p.grad is not None})


# ---- sizes


@those()
def test_empty_batch_gives_zero(loss):
    value, gradients = with_gradients(build(loss), tensors(loss, batch=0))
    assert value.item() == 0
    assert zero(gradients)


@those()
def test_batch_of_one_is_finite(loss):
    assert finite(*with_gradients(build(loss), tensors(loss, batch=1)))


@pytest.mark.parametrize(
    "loss",
    [loss for loss in EVERY if {"logits", "teacher_logits"} & set(loss.inputs())],
    ids=lambda loss: loss.identifier(),
)
def test_two_classes_are_finite(loss):
    assert finite(*with_gradients(build(loss, classes=2), tensors(loss, classes=2)))


@those("logits", "target", without=["features", "feature_maps", "index"])
def test_tokens_are_samples(loss):
    """[B, T, C] logits are [B * T, C] logits."""
    module, values = build(loss), tensors(loss)
    folded = {
        name: value.reshape(2, BATCH // 2, *value.shape[1:])
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == BATCH
        else value
        for name, value in values.items()
    }
    torch.testing.assert_close(module(**folded), module(**values), rtol=1e-12, atol=1e-12)


# A mean that is weighted by classes, and one over tokens, have tests of their own.
OF_TOKENS = ("completion_nll", "gradient_ascent", "retain_nll", "satimp", "wga")


@those(options=["reduction"], but=("class_balanced", *OF_TOKENS))
def test_reductions_agree(loss):
    values = tensors(loss)
    if "target" in values and takes(loss, "ignore_index"):
        values["target"][2] = -100
    kept = BATCH - 1 if "target" in values and takes(loss, "ignore_index") else BATCH
    mean, total = build(loss, reduction="mean")(**values), build(loss, reduction="sum")(**values)
    # The same numbers, added and divided in another order.
    torch.testing.assert_close(total, mean * kept, rtol=1e-12, atol=1e-12)
    if not loss.batch_coupled:
        each = build(loss, reduction="none")(**values)
        assert each.shape == (BATCH,)
        torch.testing.assert_close(each.sum(), total, rtol=1e-12, atol=1e-12)
        single = [build(loss)(**some_rows(values, torch.tensor([row]))) for row in range(BATCH)]
        torch.testing.assert_close(each, torch.stack(single), rtol=1e-10, atol=1e-12)


# ---- extremes


@those("logits")
@each("dtype", [torch.float32, torch.float64])
@each("who", ["logits", "teacher_logits", "both"])
def test_huge_logits_are_finite(loss, who, dtype):
    values = tensors(loss)
    if "teacher_logits" not in values and who != "logits":
        return
    for name in ("logits", "teacher_logits"):
        if name in values and who in (name, "both"):
            values[name] = values[name].sign() * 1e4
    values = {**values, **{name: value.to(dtype) for name, value in floating(values).items()}}
    assert finite(*with_gradients(build(loss).to(dtype), values))


@those("logits")
@each("masked", [(0,), (0, 1, 2)])
def test_masked_classes_are_finite(loss, masked):
    values = tensors(loss)
    for name in ("logits", "teacher_logits"):
        if name in values:
            values[name][:, list(masked)] = -torch.inf
    if "past_probabilities" in values:
        values["past_probabilities"] = values["logits"].softmax(dim=-1)
    if "target" in values:
        values["target"] = torch.tensor([3, 4] * (BATCH // 2))
    if "second_target" in values:
        values["second_target"] = torch.tensor([4, 3] * (BATCH // 2))
    if "multi_hot" in values:
        values["multi_hot"][:, list(masked)] = 0
    assert finite(*with_gradients(build(loss), values))


@those("teacher_logits")
@each("teacher", ["one-hot", "uniform"])
@each("dtype", [torch.float32, torch.float64])
def test_extreme_teachers_are_finite(loss, teacher, dtype):
    values = tensors(loss)
    values["teacher_logits"] = torch.zeros_like(values["teacher_logits"])
    if teacher == "one-hot":
        values["teacher_logits"][:, 1] = 1e4
    values = {**values, **{name: value.to(dtype) for name, value in floating(values).items()}}
    assert finite(*with_gradients(build(loss).to(dtype), values))


@those("logits")
def test_uniform_student_is_finite(loss):
    values = tensors(loss)
    values["logits"] = torch.zeros_like(values["logits"])
    assert finite(*with_gradients(build(loss), values))


# NaN is a question without an answer there.
@those(but=("multi_aspect_kd",))
def test_what_is_not_a_number_makes_the_value_so(loss):
    values = tensors(loss)
    # Losses of preferences read log collisions only where they weigh pairs, as their own tests ask them to.
    read = {name: value for name, value in floating(values).items() if not name.endswith("_log_collisions")}
    for name, value in read.items():
        for wrong in (torch.nan, torch.inf) if name in ("logits", "teacher_logits") else (torch.nan,):
            broken = value.clone()
            broken[(2, *[0] * (value.ndim - 1))] = wrong
            try:
                result = build(loss)(**{**values, name: broken})
            except ValueError as error:
                assert f"a row of {name} adds up to nan; give probabilities" in str(error)
                continue
            assert not bool(torch.isfinite(result)), (name, wrong)
            assert wrong == torch.inf or bool(torch.isnan(result)), name


@those("target")
@each("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32])
def test_classes_are_int64_and_nothing_else(loss, dtype):
    values = tensors(loss)
    with pytest.raises(ValueError, match="int64"):
        build(loss)(**{**values, "target": values["target"].to(dtype)})


@those("target")
def test_a_target_that_is_no_number_is_refused(loss):
    with pytest.raises(
        ValueError, match=r"adds up to nan; give probabilities|a target of probabilities came|, or none"
    ):
        build(loss)(**{**tensors(loss), "target": torch.full((BATCH, CLASSES), torch.nan, dtype=torch.float64)})


@those("target")
@each("wrong", [torch.nan, torch.inf])
def test_a_target_that_is_no_number_makes_the_value_so_where_none_is_read(loss, wrong, monkeypatch):
    """As on a device that nothing waits for: such a row has a largest class too."""
    monkeypatch.setattr(probabilities, "_read", lambda *_: None)
    values = tensors(loss)
    target = torch.nn.functional.one_hot(values["target"], CLASSES).double()
    target[2, 1] = wrong
    try:
        result = build(loss)(**{**values, "target": target})
    except ValueError as error:
        assert re.search("of probabilities came|, or none|give", str(error)) and "nan" not in str(error)
    else:
        assert bool(torch.isnan(result))


# ---- who learns


@those()
def test_constants_get_no_gradient(loss):
    values = tensors(loss)
    constants = [name for name in floating(values) if name not in trained(values) and name != "target"]
    for tensor in floating(values).values():
        tensor.requires_grad_()
    build(loss)(**values).backward()
    assert all(values[name].grad is None for name in constants)
    assert any(values[name].grad is not None and bool((values[name].grad != 0).any()) for name in trained(values))


# ---- bad input


# An old network knows fewer classes than the current one.
@those("logits", "teacher_logits", but=("class_relation_kd",))
def test_other_number_of_classes_is_refused(loss):
    values = tensors(loss)
    values["teacher_logits"] = values["teacher_logits"][:, :-1]
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: teacher_logits.*\[6, 4\].*\[6, 5\]"):
        build(loss)(**values)


@those("logits", "target")
def test_target_of_another_shape_is_refused(loss):
    values = tensors(loss)
    values["target"] = values["target"][:-1]
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: .*\[{BATCH - 1}\]"):
        build(loss)(**values)


@those("logits")
def test_integer_logits_are_refused(loss):
    values = tensors(loss)
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: logits.*int64"):
        build(loss)(**{**values, "logits": values["logits"].long()})


@those("target", but=OF_ANY_LABELS)
@each("bad", [CLASSES, -1])
def test_target_out_of_range_is_refused(loss, bad, monkeypatch):
    values = tensors(loss)
    values["target"][0] = bad
    told = rf"^{loss.identifier()}: target {bad} .*{CLASSES} classes"
    with pytest.raises(ValueError, match=told):
        build(loss)(**values)
    # What can't be read for free is read under debug.
    with monkeypatch.context() as patch, debug(), pytest.raises(ValueError, match=told):
        patch.setattr("lightning_losses.numerics.probabilities._read", lambda *_: None)
        build(loss)(**values)


@those("target")
def test_a_missing_target_is_refused(loss):
    if loss.inputs()["target"]:
        with pytest.raises(ValueError, match=rf"^{loss.identifier()}: target came as None; give "):
            build(loss)(**{**tensors(loss), "target": None})


@those("logits", "target", but=("crd",))
@each("factor", [-0.5, 2, 0.5])
def test_a_target_that_is_no_probability_is_refused(loss, factor):
    values = tensors(loss)
    values["target"] = factor * values["logits"].softmax(dim=-1)
    told = rf"^({loss.identifier()}|ofa_kd): (target holds -|a row of target adds up to).*give probabilities"
    with pytest.raises(ValueError, match=told):
        build(loss)(**values)


@pytest.mark.parametrize("name", ["past_probabilities", "mixup_target", "teacher_aspects", "ratio"])
@pytest.mark.parametrize("by", [-1, 2])
def test_shares_out_of_range_are_refused(name, by):
    for loss in (loss for loss in EVERY if name in loss.inputs()):
        values = tensors(loss)
        values[name][0] += by
        with pytest.raises(ValueError, match=rf"^{loss.identifier()}: (a row of )?{name} (holds|adds up to)"):
            build(loss)(**values)


@those()
def test_what_is_no_tensor_is_named(loss):
    values = tensors(loss)
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            with pytest.raises(ValueError, match=rf"^{loss.identifier()}: .*{name}"):
                build(loss)(**{**values, name: value.tolist()})


@those("logits", "target", without=["features", "mixup_logits"])
def test_classes_that_do_not_come_last_are_refused(loss):
    sizes = (2, CLASSES, 3, 4)
    values = {
        name: torch.zeros(sizes) if name in CLASS_WISE else torch.zeros(2, 3, 4, dtype=value.dtype)
        for name, value in tensors(loss).items()
        if isinstance(value, torch.Tensor)
    }
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: .*\[2, 5, 3, 4\].*logits\.movedim\(1, -1\)\.$"):
        build(loss)(**{**tensors(loss), **values})


@those("logits", without=["features", "mixup_logits", "regression_target"])
def test_four_dimensions_without_class_indices_are_refused(loss):
    """Softmax would be over the width, in silence."""
    sizes = (2, CLASSES, 3, CLASSES)
    values = {name: torch.full(sizes, 0.2) if name in CLASS_WISE else value for name, value in tensors(loss).items()}
    values.pop("unlabelled", None)
    if "target" in values:
        values["target"] = torch.full(sizes, 0.2) if loss.inputs()["target"] else None
    told = rf"^{loss.identifier()}: logits of shape \[2, 5, 3, 5\] came without class indices.*movedim.*flatten"
    with pytest.raises(ValueError, match=told):
        build(loss)(**values)


# A probability of its own for each class, or none at all.
@those("logits", without=["multi_hot"], but=("binary_kl", "binary_kl_norm", "group_kd", "z_loss"))
def test_one_class_is_refused(loss):
    values = tensors(loss)
    values |= {name: values[name][..., :1] for name in CLASS_WISE if name in values}
    values |= {"target": torch.zeros(BATCH, dtype=torch.int64)} if "target" in values else {}
    told = rf"^({loss.identifier()}|kd): (logits of shape \[6, 1\] came, and softmax over one class|.*at least (2|two))"
    with pytest.raises(ValueError, match=told):
        build(loss, classes=1)(**values)


@those(options=["temperature"])
@each("bad", [0, -1.0, float("nan"), float("inf"), "4"])
def test_bad_temperature_is_refused(loss, bad):
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: temperature={bad!r}"):
        build(loss, temperature=bad)


@those(options=["reduction"])
@each("bad", ["average", None])
def test_unknown_reduction_is_refused(loss, bad):
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: reduction={bad!r} came; choose one of 'mean'"):
        build(loss, reduction=bad)


# ---- what comes with a loss


@those()
def test_pickle_and_state_round_trip(loss):
    module, values = build(loss), tensors(loss)
    value = module(**values)
    assert torch.equal(pickle.loads(pickle.dumps(module))(**values), value)
    fresh = build(loss)
    for parameter in fresh.parameters():
        if not is_lazy(parameter):
            nn.init.zeros_(parameter)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(**values), value)


@those()
def test_a_call_leaves_the_inputs_as_they_were(loss):
    values = tensors(loss)
    before = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
    with_gradients(build(loss), values)
    torch.testing.assert_close(values, before, rtol=0, atol=0)


@those()
def test_it_is_documented(loss):
    documentation = inspect.getdoc(loss)
    for section in ("Shapes:", "Returns:", "Raises:", "Source:", "Example:"):
        assert f"\n{section}" in documentation, section
    assert ">>>" in documentation.partition("\nExample:")[2]
    for name in constructor_options(loss):
        # What a kind of losses shares, such as the reduction, is documented by the kind.
        declaring = next((kind for kind in loss.__mro__ if name in inspect.get_annotations(kind)), loss)
        documented = inspect.getdoc(declaring).partition("\nArgs:")[2].partition("\nShapes:")[0]
        assert f"    {name}: " in documented, name


@those()
def test_it_has_tests(loss):
    family = Path(*inspect.getmodule(loss).__name__.split(".")[2:-1])
    assert (ROOT / "tests" / "losses" / family / f"test_{loss.identifier()}.py").is_file()


@cache
def configured():
    """The loss classes in the objectives of conf/, by the name of their file."""
    found = {}
    for file in sorted((ROOT / "conf" / "objective").glob("*.yaml")):
        config = OmegaConf.create({"data": {"num_classes": CLASSES}, "objective": OmegaConf.load(file)})
        objective = hydra.utils.instantiate(config.objective)
        assert isinstance(objective, Objective), file.name
        found[file.stem] = {type(term.loss) for term in objective.terms.values()}
    return found


@pytest.mark.parametrize("file", sorted((ROOT / "conf" / "objective").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_configuration_begins_with_its_command(file):
    command = file.read_text().partition("\n")[0]
    assert re.fullmatch(rf"# python recipes/train\.py experiment=\w+ objective={file.stem}", command)
    experiment = re.search(r"experiment=(\w+)", command)[1]
    assert (ROOT / "conf" / "experiment" / f"{experiment}.yaml").is_file()


@those()
def test_it_has_a_configuration(loss):
    assert any(loss in classes for classes in configured().values())


@pytest.mark.parametrize("make", [lambda x: losses.Focal(gamma=x), lambda x: losses.DualFocal(gamma=x),
                                  lambda x: losses.ABDivergence(x, 1.0)])  # fmt: skip
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_settings_are_finite(make, value):
    with pytest.raises(ValueError, match=r"=(-?inf|nan) came; give a"):
        make(value)


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: loss.identifier())
def test_state_stays_out_of_half_precision(loss):
    """There a running average rounds back to what it was."""
    made = build(loss)
    before = {name: buffer.clone() for name, buffer in made.named_buffers(recurse=False) if not is_lazy(buffer)}
    for name, buffer in made.bfloat16().named_buffers(recurse=False):
        assert name not in before or torch.equal(buffer, before[name])
