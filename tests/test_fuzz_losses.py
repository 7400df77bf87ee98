"""Every loss at the edges of its inputs: finite values and gradients, or the documented error.

`make fuzz` runs every case with several seeds and prints counts; the suite takes each loss with each hardship once, the
precisions in turn.
"""

import itertools

import pytest
import torch

from lightning_losses.losses import loss_classes
from lightning_losses.losses.glossary import is_shared
from lightning_losses.numerics.rows import labelled_rows
from lightning_losses.numerics.settings import settings
from tests.losses.examples import CLASSES, build, floating, takes, tensors, trained

PRECISIONS = ("float32", "bfloat16", "float16", "bfloat16 autocast", "float16 autocast")
EVERY = loss_classes()


def scores(values):
    """The tensors that are unnormalised scores, of student or teacher."""
    return [name for name in values if name.endswith("logits")]


def huge(values, sign):
    for name in scores(values):
        values[name] = values[name].sign() * 1e4 if sign is None else torch.full_like(values[name], sign * 1e4)
    return values


def masked(values, names=None):
    for name in scores(values) if names is None else names:
        # Answers to questions are no classes.
        if not name.startswith("aspect"):
            values[name][:, 0] = -torch.inf
    if "target" in values:
        values["target"] = values["target"].clamp(min=1)
    if "second_target" in values:
        values["second_target"] = values["second_target"].clamp(min=1)
    if "multi_hot" in values:
        values["multi_hot"][:, 0] = 0
    # What the past or a mixture believed of a class that is masked now is nothing.
    for name in ("past_probabilities", "mixup_target"):
        if name in values:
            values[name][:, 0] = 0
            values[name] = values[name] / values[name].sum(dim=-1, keepdim=True)
    return values


def constant(values):
    return {**values, **{name: torch.full_like(values[name], 0.7) for name in trained(values)}}


def absent(values):
    if "target" in values:
        values["target"] = values["target"].clamp(max=1)
    return values


def alike(values):
    if "target" in values:
        values["target"] = torch.full_like(values["target"], 2)
    return values


def ignored(values, loss):
    if "target" in values and takes(loss, "ignore_index"):
        values["target"] = torch.full_like(values["target"], -100)
    return values


def unlabelled(values, draw):
    """Probabilities for a target, all 0 in some rows."""
    if "target" in values:
        rows = len(values["target"])
        values["target"] = torch.randn(rows, CLASSES, dtype=torch.float64, generator=draw).softmax(dim=-1)
        values["target"][some_rows(rows, draw)] = 0
    return values


def ignored_among_masked(values, loss, draw):
    """Ignored rows that hold anything, beside others of which both networks mask a class, or one alone."""
    both = scores(values)
    teachers = [name for name in both if name.startswith("teacher")]
    students = [name for name in both if name not in teachers]
    values = masked(values, drawn((both, teachers, students), draw))
    if "target" in values and takes(loss, "ignore_index"):
        rows, anything = some_rows(len(values["target"]), draw), drawn((torch.nan, torch.inf, -torch.inf), draw)
        values["target"][rows] = -100
        for name in values.keys() & {"logits", "teacher_logits"}:
            values[name][rows] = anything
    return values


def drawn(choices, draw):
    return choices[int(torch.randint(len(choices), (), generator=draw))]


def some_rows(rows, draw):
    """Which they are: one at least, and not all."""
    some = torch.rand(rows, generator=draw) < 0.5
    some[:2] = torch.tensor([True, False])
    return some


def strided(values):
    return {
        name: tensor.repeat_interleave(2, dim=0)[::2].transpose(0, -1).contiguous().transpose(0, -1)
        if isinstance(tensor, torch.Tensor) and tensor.ndim > 1
        else tensor
        for name, tensor in values.items()
    }


HARDSHIPS = {
    "huge": (6, lambda values, loss, draw: huge(values, None)),
    "all at 1e4": (6, lambda values, loss, draw: huge(values, 1)),
    "all at -1e4": (6, lambda values, loss, draw: huge(values, -1)),
    "masked": (6, lambda values, loss, draw: masked(values)),
    "constant": (6, lambda values, loss, draw: constant(values)),
    "absent class": (6, lambda values, loss, draw: absent(values)),
    "one class": (6, lambda values, loss, draw: alike(values)),
    "batch of one": (1, lambda values, loss, draw: values),
    "all ignored": (6, lambda values, loss, draw: ignored(values, loss)),
    "not contiguous": (6, lambda values, loss, draw: strided(values)),
    "empty": (0, lambda values, loss, draw: values),
    "unlabelled rows": (6, lambda values, loss, draw: unlabelled(values, draw)),
    "ignored rows among masked": (6, ignored_among_masked),
}


# Where some rows count for nothing: what is left is the loss of the others.
LEFT_OUT = ("unlabelled rows", "ignored rows among masked")


def attempt(loss, hardship, precision, seed, **options):
    """What came of a case: "finite", "error" where the loss documents one, or what is wrong, in words."""
    batch, change = HARDSHIPS[hardship]
    kind, _, autocast = precision.partition(" ")
    dtype = torch.float32 if autocast else getattr(torch, kind)
    values = change(tensors(loss, batch=batch, seed=seed), loss, torch.Generator().manual_seed(seed))
    values = {**values, **{name: tensor.to(dtype) for name, tensor in floating(values).items()}}
    module = build(loss, **options).float()
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in trained(values).items()}
    try:
        with torch.autocast("cpu", getattr(torch, kind), enabled=bool(autocast)):
            value = module(**{**values, **leaves})
            if value.requires_grad:
                value.sum().backward()
    except ValueError as error:
        told = str(error).startswith((f"{loss.identifier()}: ", f"{loss.__name__}: ")) and "\n" not in str(error)
        return "error" if told else f"undocumented error: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if not bool(torch.isfinite(value).all()):
        return f"the value is {value.tolist()}"
    owned = {**leaves, **dict(module.named_parameters())}
    bad = [n for n, leaf in owned.items() if leaf.grad is not None and not bool(torch.isfinite(leaf.grad).all())]
    if bad:
        return f"the gradient of {', '.join(bad)} is not finite"
    if hardship in LEFT_OUT and "target" in values and not autocast:
        kept = labelled_rows(values["target"])
        rows = {
            name: tensor[kept] if isinstance(tensor, torch.Tensor) and not is_shared(name) else tensor
            for name, tensor in values.items()
        }
        alone = build(loss, **options).float()(**rows)
        if not torch.allclose(value, alone, rtol=1e-4, atol=1e-5):
            return f"the value is {value.item()}, and {alone.item()} without the rows that count for nothing"
    return "finite"


def edges(setting):
    """Values at the ends of a setting's range, and values beyond them."""
    bound, whole = setting.bound, setting.kind is int
    step = 1 if whole else 1e-3
    inside = [end for end in (bound.least, bound.most) if end is not None]
    inside += [] if bound.above is None else [bound.above + step]
    inside += [] if bound.below is None else [bound.below - step]
    beyond = [] if bound.least is None else [bound.least - step]
    beyond += [] if bound.most is None else [bound.most * 2]
    beyond += [end for end in (bound.above, bound.below) if end is not None]
    return ([int(end) for end in inside] if whole else inside), [*beyond, float("nan"), "many"]


EDGES = [
    pytest.param(loss, setting, id=f"{loss.identifier()}-{setting.name}")
    for loss in EVERY
    for setting in settings(loss)
    if str(setting.bound)
]

WEIGHTS, WEIGHED = "a wrong class weight", [loss for loss in EVERY if takes(loss, "class_weight")]

# In the suite each loss meets each hardship in one of the precisions, another one from loss to loss.
CASES = [
    (loss, hardship, precision)
    for place, loss in enumerate(EVERY)
    for number, hardship in enumerate(HARDSHIPS)
    for precision in [PRECISIONS[(place + number) % len(PRECISIONS)]]
]


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: loss.identifier())
def test_it_is_finite_or_says_what_is_wrong(loss):
    mine = [(hardship, precision) for one, hardship, precision in CASES if one is loss]
    outcomes = {case: attempt(loss, *case, seed=0) for case in mine}
    wrong = {case: outcome for case, outcome in outcomes.items() if outcome not in ("finite", "error")}
    assert not wrong
    # An error is the exception: most of the hardships are none for a loss.
    assert sum(outcome == "finite" for outcome in outcomes.values()) > len(outcomes) / 2


def class_weights(loss, seed):
    """What comes of weights of which one is below 0 or no number; "error" is right."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.rand(CLASSES, generator=draw)
    weights[int(torch.randint(CLASSES, (), generator=draw))] = drawn((-1e-3, torch.nan, torch.inf, -torch.inf), draw)
    try:
        build(loss, class_weight=weights)
    except ValueError as error:
        return "error" if str(error).startswith(f"{loss.identifier()}: class_weight=") else f"another error: {error}"
    return f"class_weight={weights.tolist()} was taken"


def fuzz(seeds, first=0):
    """Every case with several seeds; counts of outcomes, and what went wrong."""
    counts, wrong = {}, {}
    cases = [*itertools.product(EVERY, HARDSHIPS, PRECISIONS), *((loss, WEIGHTS, "float32") for loss in WEIGHED)]
    for (loss, hardship, precision), seed in itertools.product(cases, range(first, first + seeds)):
        outcome = class_weights(loss, seed) if hardship == WEIGHTS else attempt(loss, hardship, precision, seed)
        kind = outcome if outcome in ("finite", "error") else "wrong"
        counts[kind] = counts.get(kind, 0) + 1
        if kind == "wrong":
            wrong.setdefault((loss.identifier(), hardship, outcome.splitlines()[0]), []).append((precision, seed))
    return counts, wrong


@pytest.mark.parametrize("loss", WEIGHED, ids=lambda loss: loss.identifier())
def test_a_wrong_class_weight_is_refused(loss):
    assert {class_weights(loss, seed) for seed in range(8)} == {"error"}


@pytest.mark.parametrize(("loss", "setting"), EDGES)
def test_a_setting_holds_at_the_ends_of_its_range_and_is_refused_beyond(loss, setting):
    inside, beyond = edges(setting)
    for value in inside:
        try:
            outcome = attempt(loss, "constant", "float32", seed=0, **{setting.name: value})
        except ValueError as error:  # refused beside the defaults of other settings, or for these tensors
            outcome = "error" if str(error).startswith(f"{loss.identifier()}: ") else str(error)
        assert outcome in ("finite", "error"), value
    for value in beyond:
        with pytest.raises(ValueError, match=rf"^{loss.identifier()}: {setting.name}={value!r} came; give a "):
            build(loss, **{setting.name: value})
