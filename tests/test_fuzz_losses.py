"""Every loss at the edges of its inputs: finite values and gradients, or the documented error.

`make fuzz` runs every case with several seeds and prints counts; the suite takes each loss with each hardship once, the
precisions in turn.
"""

import itertools

import pytest
import torch

from lightning_losses.losses import loss_classes
from lightning_losses.numerics.settings import settings
from tests.losses.examples import build, floating, takes, tensors, trained

PRECISIONS = ("float32", "bfloat16", "float16", "bfloat16 autocast", "float16 autocast")
EVERY = loss_classes()


def scores(values):
    """The tensors that are unnormalised scores, of student or teacher."""
    return [name for name in values if name.endswith("logits")]


def huge(values, sign):
    for name in scores(values):
        values[name] = values[name].sign() * 1e4 if sign is None else torch.full_like(values[name], sign * 1e4)
    return values


def masked(values):
    for name in scores(values):
        # Answers to questions are no classes.
        if not name.startswith("aspect"):
            values[name][:, 0] = -torch.inf
    if "target" in values:
        values["target"] = values["target"].clamp(min=1)
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


def strided(values):
    return {
        name: tensor.repeat_interleave(2, dim=0)[::2].transpose(0, -1).contiguous().transpose(0, -1)
        if isinstance(tensor, torch.Tensor) and tensor.ndim > 1
        else tensor
        for name, tensor in values.items()
    }


HARDSHIPS = {
    "huge": (6, lambda values, loss: huge(values, None)),
    "all at 1e4": (6, lambda values, loss: huge(values, 1)),
    "all at -1e4": (6, lambda values, loss: huge(values, -1)),
    "masked": (6, lambda values, loss: masked(values)),
    "constant": (6, lambda values, loss: constant(values)),
    "absent class": (6, lambda values, loss: absent(values)),
    "one class": (6, lambda values, loss: alike(values)),
    "batch of one": (1, lambda values, loss: values),
    "all ignored": (6, lambda values, loss: ignored(values, loss)),
    "not contiguous": (6, lambda values, loss: strided(values)),
    "empty": (0, lambda values, loss: values),
}


def attempt(loss, hardship, precision, seed, **options):
    """What came of a case: "finite", "error" where the loss documents one, or what is wrong, in words."""
    batch, change = HARDSHIPS[hardship]
    kind, _, autocast = precision.partition(" ")
    dtype = torch.float32 if autocast else getattr(torch, kind)
    values = change(tensors(loss, batch=batch, seed=seed), loss)
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
    return f"the gradient of {', '.join(bad)} is not finite" if bad else "finite"


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


def fuzz(seeds):
    """Every case with several seeds; counts of outcomes, and what went wrong."""
    counts, wrong = {}, {}
    for loss, hardship, precision, seed in itertools.product(EVERY, HARDSHIPS, PRECISIONS, range(seeds)):
        outcome = attempt(loss, hardship, precision, seed)
        kind = outcome if outcome in ("finite", "error") else "wrong"
        counts[kind] = counts.get(kind, 0) + 1
        if kind == "wrong":
            wrong.setdefault((loss.identifier(), hardship, outcome.splitlines()[0]), []).append((precision, seed))
    return counts, wrong


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
