"""Losses of other libraries, wrapped by configurations alone, are those losses."""

import copy
import pickle
import sys
from functools import partial
from pathlib import Path

import hydra
import pytest
import timm.loss
import torch
import torch.nn.functional as F
import torchvision.ops
from omegaconf import OmegaConf
from pytorch_metric_learning import losses as metric_learning
from torch import nn

from lightning_losses import Objective, Term
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.losses.adapted import Adapted
from lightning_losses.losses.base import forward_inputs

OBJECTIVES = Path(__file__).parents[2] / "conf" / "objective"
CLASSES = 10


def hot(target):
    return F.one_hot(target, CLASSES).float()


# What each configuration is to equal, called as its own library says: logits, target, features -> value.
DIRECT = {
    "asymmetric_single_label": lambda z, y, f: timm.loss.AsymmetricLossSingleLabel()(z, y),
    "bce_with_logits": lambda z, y, f: F.binary_cross_entropy_with_logits(z, hot(y)),
    "binary_cross_entropy": lambda z, y, f: timm.loss.BinaryCrossEntropy()(z, y),
    "distribution_balanced": lambda z, y, f: timm.loss.DistributionBalancedLoss([300] * 10, 3000)(z, hot(y)),
    "jsd_cross_entropy": lambda z, y, f: timm.loss.JsdCrossEntropy()(z, y),
    "multi_similarity": lambda z, y, f: metric_learning.MultiSimilarityLoss()(f, y),
    "poly_binary_cross_entropy": lambda z, y, f: timm.loss.PolyBinaryCrossEntropy()(z, hot(y)),
    "poly_cross_entropy": lambda z, y, f: timm.loss.PolyCrossEntropy()(z, y),
    "sigmoid_focal": lambda z, y, f: torchvision.ops.sigmoid_focal_loss(z, hot(y), reduction="mean"),
    "two_way": lambda z, y, f: timm.loss.TwoWayLoss()(z, hot(y)),
    "zlpr": lambda z, y, f: timm.loss.ZlprLoss()(z, hot(y)),
}


def wrapped(name):
    """The term of a configuration that has its name."""
    objective = hydra.utils.instantiate(OmegaConf.load(OBJECTIVES / f"{name}.yaml"))
    return objective.terms[name]


def step():
    generator = torch.Generator().manual_seed(0)
    return {
        "logits": (3 * torch.randn(12, CLASSES, generator=generator)).requires_grad_(),
        "target": torch.randint(0, CLASSES, (12,), generator=generator),
        "features": torch.randn(12, 5, generator=generator).requires_grad_(),
    }


def test_every_configuration_that_wraps_a_loss_is_compared():
    files = {
        file.stem: OmegaConf.load(file) for file in OBJECTIVES.glob("*.yaml") if "adapted.Adapted" in file.read_text()
    }
    # A term of another name stands beside the loss of the configuration.
    wrapping = {name for name, given in files.items() if given.terms.get(name, given).loss.get("loss") is not None}
    assert wrapping == set(DIRECT)


@pytest.mark.parametrize("name", sorted(DIRECT))
def test_a_configuration_is_the_loss_that_it_wraps(name):
    term, tensors = wrapped(name), step()
    leaves = [tensors["logits"], tensors["features"]]
    value = term(tensors)
    expected = DIRECT[name](tensors["logits"], tensors["target"], tensors["features"])
    assert value.ndim == 0 and value.item() != 0
    # The same operations on the same numbers; a target that comes one-hot in another memory order may round otherwise.
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    mine, direct = (torch.autograd.grad(v, leaves, allow_unused=True) for v in (value, expected))
    torch.testing.assert_close(mine, direct, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(DIRECT))
def test_half_precision_is_widened(name):
    term, tensors = wrapped(name), step()
    half = {k: v.detach().bfloat16() if v.is_floating_point() else v for k, v in tensors.items()}
    widened = {k: v.float() if v.is_floating_point() else v for k, v in half.items()}
    with torch.autocast("cpu", torch.bfloat16):
        value = term(half)
    assert value.dtype == torch.float32 and torch.equal(value, term(widened))


def test_a_step_of_many_labels_gives_them_in_place_of_classes():
    tensors = step()
    labels = {"logits": tensors["logits"], "multi_hot": torch.eye(CLASSES)[tensors["target"]].long()}
    for name in ("zlpr", "two_way", "bce_with_logits"):
        torch.testing.assert_close(Objective({name: wrapped(name)})(**labels).total, wrapped(name)(tensors))
    for given, told in (
        ({"logits": labels["logits"]}, "neither target nor multi_hot came to ZlprLoss; give one of them."),
        ({**labels, "multi_hot": labels["multi_hot"] - 100}, "multi_hot with numbers outside of [0, 1] came to "
         "ZlprLoss, which knows no ignored labels; take a loss of the library, such as Asymmetric."),
    ):  # fmt: skip
        with pytest.raises(ValueError) as error:
            wrapped("zlpr")(given)
        assert str(error.value) == f"adapted: {told}"


def test_coupled_losses_say_so():
    assert {name for name in DIRECT if wrapped(name).batch_coupled} == {
        "multi_similarity",
        "two_way",
    }


def test_an_objective_feeds_a_plain_function_by_its_names():
    loss = Adapted(F.mse_loss, {"input": "logits", "target": "teacher_logits"})
    value = Objective({"mse": loss})(logits=torch.zeros(2, 3), teacher_logits=torch.full((2, 3), 2.0))
    assert value.total.item() == 4.0
    with pytest.raises(ValueError, match=r"term 'mse' \(Adapted\) needs 'teacher_logits'; the step offered 'logits'"):
        Objective({"mse": loss})(logits=torch.zeros(2, 3))
    assert not Term(loss).batch_coupled and Term(Adapted(F.mse_loss, batch_coupled=True)).batch_coupled


def test_arguments_with_a_default_keep_it_unless_they_are_named():
    def loss(logits, weight=None, *, index=2.0):
        return logits.sum() * index + (0 if weight is None else weight.sum())

    assert forward_inputs(Adapted(loss)) == {"logits": True}
    tensors = {"logits": torch.ones(2), "index": torch.tensor(5.0), "weight": torch.ones(3)}
    assert Term(Adapted(loss))(tensors).item() == 4.0
    assert Term(Adapted(partial(loss, index=3.0), {"weight": "weight"}))(tensors).item() == 9.0


def test_reduction():
    loss = partial(F.cross_entropy, reduction="none")
    names = {"input": "logits"}
    tensors = step()
    each = loss(tensors["logits"], tensors["target"])
    assert torch.equal(Adapted(loss, names, reduction="mean")(**tensors), each.mean())
    assert torch.equal(Adapted(loss, names, reduction="sum")(**tensors), each.sum())
    assert torch.equal(Adapted(loss, names)(**tensors), each)


@pytest.mark.parametrize("ignored", [1, 12])
def test_a_mean_of_values_is_over_the_samples_that_the_denominator_counts(ignored):
    def squares(logits, target, ignore_index=-100):
        return F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none").square()

    loss, tensors = Adapted(squares, reduction="mean"), step()
    tensors["target"][:ignored] = -100
    expected = squares(tensors["logits"], tensors["target"]).sum() / max(12 - ignored, 1)
    torch.testing.assert_close(loss(**tensors), expected)
    assert int(loss.denominator(**tensors)) == 12 - ignored
    assert loss(**{name: tensor[:0] for name, tensor in tensors.items()}) == 0


def test_what_a_mean_divides_by_is_known_to_the_objective():
    tensors = step()
    tensors["target"][:3] = -100
    term = Term(Adapted(nn.CrossEntropyLoss(), {"input": "logits"}, reduction="mean"))
    assert term.count(tensors).samples.item() == 9
    assert Term(Adapted(F.cross_entropy, {"input": "logits"}, reduction="mean")).count(tensors).samples.item() == 9
    # Torch's own is known without being told.
    assert Term(Adapted(nn.CrossEntropyLoss(), {"input": "logits"})).count(tensors).samples.item() == 9


def test_a_mean_by_weights_that_nobody_knows_is_refused():
    class Focal(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.ones(CLASSES))

        def forward(self, logits, target):
            return F.cross_entropy(logits, target, weight=self.weight)

    tensors = step()
    assert Adapted(Focal())(**tensors).ndim == 0
    with pytest.raises(
        ValueError, match=r"^adapted: Focal has weights of its own, .* CrossEntropy\(class_weight=...\)"
    ):
        Adapted(Focal(), reduction="mean")(**tensors)


def test_parameters_of_a_wrapped_loss_are_trained_saved_and_copied():
    loss = Adapted(
        metric_learning.ArcFaceLoss(num_classes=CLASSES, embedding_size=5),
        {"embeddings": "features", "labels": "target"},
    )
    objective, tensors = Objective({"arcface": loss}), step()
    assert [name for name, _ in objective.named_parameters()] == ["terms.arcface.loss.loss.W"]
    objective(**tensors).total.backward()
    assert loss.loss.W.grad.abs().sum() > 0
    for other in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert torch.equal(other(**tensors).total, objective(**tensors).total)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adapted(3), r"^adapted: loss=3 came; give a module or a function"),
        (
            lambda: Adapted(F.mse_loss, {"inputs": "logits"}),
            r"^adapted: inputs name inputs, which mse_loss does not take; it takes input, target",
        ),
        (lambda: Adapted(F.mse_loss, reduction="average"), r"^adapted: reduction='average' came; choose one of 'mean'"),
        (lambda: Adapted(lambda: 0), r"^adapted: <lambda> needs no tensor"),
        (
            lambda: Adapted(F.mse_loss, one_hot=True),
            r"^adapted: one_hot=True came to mse_loss, which takes input, targ",
        ),
        (lambda: Adapted(lambda logits: 1.0)(logits=torch.zeros(1)), r"^adapted: <lambda> returned a float"),
        (
            lambda: wrapped("zlpr")({"logits": torch.zeros(2, 3), "target": torch.zeros(2, 3)}),
            r"^adapted: target of shape \[2, 3\] and dtype torch.float32 came to ZlprLoss with one_hot=True",
        ),
        (
            lambda: wrapped("jsd_cross_entropy")({"logits": torch.zeros(4, 3), "target": torch.zeros(4).long()}),
            r"^adapted: JsdCrossEntropy refused output \[4, 3\], target \[4\] \(an assertion",
        ),
    ],
)
def test_what_can_not_be_adapted_is_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_library_that_is_not_installed_is_one_sentence_with_its_extra(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "pytorch_metric_learning"]:
        monkeypatch.setitem(sys.modules, module, None)
    configuration = OmegaConf.load(OBJECTIVES / "multi_similarity.yaml")
    with pytest.raises(ValueError, match=r"pip install 'lightning-losses\[metric_learning\]' brings it\.$") as found:
        instantiate(configuration)
    assert str(found.value).startswith(
        "terms.multi_similarity.loss.loss._target_=pytorch_metric_learning.losses.MultiSimilarityLoss: "
    )
