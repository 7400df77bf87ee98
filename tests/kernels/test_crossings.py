"""Options of the fused heads crossed, against the formulas written out on the logits."""

import pytest
import torch
import torch.nn.functional as F

from lightning_losses import losses
from lightning_losses.kernels import head
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.linear_distillation import linear_distillation
from tests.crossings import crossings

pytestmark = pytest.mark.kernels

VOCABULARY = 23
WALKS = {"reference": {}, "chunked": {"chunk": 5}, "recompute": {"chunk": (4, 6)}}


@pytest.fixture(autouse=True)
def narrow_tiles(monkeypatch):
    """The vocabularies of these tests span several tiles."""
    monkeypatch.setattr(head, "tile_width", lambda *settings: 7)


def problem(scale, ignore_index, width=5):
    """Sequences, a head and targets, of which some are ignored."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    hidden, weight, bias = normal(3, 6, width), normal(VOCABULARY, width), normal(VOCABULARY)
    target = torch.randint(VOCABULARY, (3, 6), generator=generator)
    target[:, ::4] = ignore_index
    with torch.no_grad():
        hidden.mul_(scale)
    return hidden, weight, target, bias


def focal(cross_entropy):
    return (-torch.expm1(-cross_entropy)) ** 2 * cross_entropy


CROSS_ENTROPY = {
    "impl": list(WALKS),
    "biased": [True, False],
    "scale": [1.0, 300.0],
    "ignore_index": [-100, 3],
    "label_smoothing": [0.0, 0.2],
    "softcap": [None, 3.0],
    "temperature": [1.0, 0.3],
    "z_loss": [0.0, 0.02],
    "weighted": [False, True],
    "row_function": [None, focal],
    "shift": [0, 1],
    "reduction": ["mean", "sum", "none"],
    "normalizer": [None, 40.0],
    "drop_ignored": [None, True, False],
    "sort_vocabulary": [False, True],
    "filter_eps": [None, 0.0],
}


def makes_sense(impl, label_smoothing, row_function, reduction, normalizer, filter_eps, **rest):
    whole = impl == "recompute"
    return (
        not (label_smoothing and row_function)
        and not (normalizer and reduction != "mean")
        and (whole or filter_eps is None)
        and (impl != "chunked" or reduction != "none")
    )


def written_out(hidden, weight, target, bias, options, class_weight):
    """The loss by torch's functions on the logits."""
    shift = options["shift"]
    hidden, target = hidden[:, : hidden.shape[1] - shift], target[:, shift:]
    logits = hidden @ weight.t() + (0 if bias is None else bias)
    if options["softcap"] is not None:
        logits = options["softcap"] * torch.tanh(logits / options["softcap"])
    logits = logits / options["temperature"]
    kept = target != options["ignore_index"]
    flat = target.masked_fill(~kept, -100).flatten()
    if options["row_function"] is None:
        smoothing = options["label_smoothing"]
        rows = F.cross_entropy(
            logits.flatten(0, 1), flat, class_weight, label_smoothing=smoothing, reduction="none"
        ).view_as(target)
    else:
        plain = F.cross_entropy(logits.flatten(0, 1), flat, reduction="none").view_as(target)
        shares = 1.0 if class_weight is None else class_weight[target.masked_fill(~kept, 0)]
        rows = torch.where(kept, shares * options["row_function"](plain), 0.0)
    squares = options["z_loss"] * torch.where(kept, logits.logsumexp(dim=-1).square(), 0.0)
    if options["reduction"] != "mean":
        total = rows + squares
        return total if options["reduction"] == "none" else total.sum()
    if options["normalizer"] is not None:
        return (rows + squares).sum() / options["normalizer"]
    mass = kept.sum() if class_weight is None else class_weight[target[kept]].sum()
    return rows.sum() / mass + squares.sum() / kept.sum()


def named(setting):
    return " ".join(str(getattr(value, "__name__", value)) for value in setting.values())


@pytest.mark.parametrize("options", crossings(CROSS_ENTROPY, makes_sense, strength=3), ids=named)
def test_cross_entropy_of_a_head_in_every_three_options(options):
    options = dict(options)
    hidden, weight, target, bias = problem(options.pop("scale"), options["ignore_index"])
    bias = bias if options.pop("biased") else None
    # Not in the order of the vocabulary's scores.
    ordered = torch.linspace(0.5, 2.0, VOCABULARY, dtype=torch.float64)
    class_weight = ordered[torch.arange(VOCABULARY) * 7 % VOCABULARY] if options.pop("weighted") else None
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]
    wanted = written_out(hidden, weight, target, bias, options, class_weight)
    walk = WALKS[options["impl"]]
    found = linear_cross_entropy(hidden, weight, target, bias, class_weight=class_weight, **walk, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    upstream = torch.linspace(-1, 2, wanted.numel(), dtype=torch.float64).view_as(wanted)
    gradients, expected = (torch.autograd.grad((upstream * value).sum(), leaves) for value in (found, wanted))
    for one, other in zip(gradients, expected, strict=True):
        # Gradients of steep scores have large entries that cancel.
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11 * float(1 + other.abs().max()))


DISTILLATION = {
    "objective": [losses.KD, losses.ForwardKL, losses.ReverseKL, losses.GeneralizedJSD, losses.SkewKL],
    "temperature": [1.0, 0.5, 4.0],
    "scale": [1.0, 300.0],
    "impl": ["chunked", "autograd", "reference"],
    "biased": [True, False],
    "hard_weight": [0.0, 0.7],
    "soft_weight": [1.0, 0.4],
    "shift": [0, 1],
    "reduction": ["mean", "sum", "none"],
    "ignore_index": [-100, 3],
    "drop_ignored": [None, True, False],
}


@pytest.mark.parametrize("options", crossings(DISTILLATION), ids=named)
def test_distillation_of_a_head_in_every_pair_of_options(options):
    options = dict(options)
    scale, ignore_index, shift = options.pop("scale"), options["ignore_index"], options["shift"]
    hidden, weight, target, bias = problem(scale, ignore_index)
    teacher_hidden, teacher_weight, _, _ = (tensor.detach() for tensor in problem(scale / 2, ignore_index, width=9))
    bias = bias if options.pop("biased") else None
    loss = options.pop("objective")(
        temperature=options.pop("temperature"), ignore_index=ignore_index, reduction=options["reduction"]
    )
    found = linear_distillation(
        hidden, weight, teacher_hidden, teacher_weight, target, objective=loss, bias=bias, chunk=4, **options
    )
    moved = F.pad(target[:, shift:], (0, shift), value=ignore_index)
    logits = hidden @ weight.t() + (0 if bias is None else bias)
    soft = loss(logits, teacher_hidden @ teacher_weight.t(), moved)
    hard = losses.CrossEntropy(ignore_index=ignore_index, reduction=options["reduction"])(logits, moved)
    wanted = options["soft_weight"] * soft + options["hard_weight"] * hard
    torch.testing.assert_close(found.loss, wanted, rtol=1e-9, atol=1e-11)
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]
    gradients, expected = (torch.autograd.grad(value.sum(), leaves) for value in (found.loss, wanted))
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11 * float(1 + other.abs().max()))
