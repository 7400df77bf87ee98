"""How teachers of anybody's are called, and what they may return."""

from typing import NamedTuple

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import KD, DistillationMixin, Objective, OnlineDistillationMixin, Term
from lightning_losses.modules.ferkd_distiller import FerKDDistiller
from lightning_losses.networks.calls import call, logits_of
from lightning_losses.teachers import TeacherEnsemble, load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher


class Named(NamedTuple):
    aux: torch.Tensor
    logits: torch.Tensor


class Record:
    def __init__(self, logits):
        self.logits = logits


FORMS = {
    "tensor": lambda logits: logits,
    "logits": lambda logits: {"loss": logits.sum(), "logits": logits},
    "out": lambda logits: {"out": logits, "aux": -logits},
    "first of a tuple": lambda logits: (logits, -logits),
    "named tuple": lambda logits: Named(-logits, logits),
    "record": Record,
}


class Network(nn.Module):
    """Answers in a form, and takes its inputs by name."""

    def __init__(self, form):
        super().__init__()
        torch.manual_seed(2)
        self.layer, self.form = nn.Linear(4, 3), form

    def forward(self, ids, mask=None):
        return FORMS[self.form](self.layer(ids if mask is None else ids * mask))


INPUTS = torch.randn(5, 4)
MASK = torch.tensor([1.0, 0.0, 1.0, 1.0])
BY_NAME = {"ids": INPUTS, "mask": MASK.expand(5, 4)}


def student(kind, **networks):
    class Student(kind, L.LightningModule):
        def __init__(self):
            super().__init__()
            self.objective = Objective({"kd": KD()})
            for name, network in networks.items():
                setattr(self, name, network)

    return Student()


@pytest.mark.parametrize("inputs", [INPUTS, BY_NAME], ids=["positional", "by name"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_a_teacher_alone_in_an_ensemble_and_cached(form, inputs, tmp_path):
    network = Network(form)
    wanted = network.layer(INPUTS if inputs is INPUTS else INPUTS * MASK).detach()
    logits = torch.zeros(5, 3)
    for teacher in (network, TeacherEnsemble([network, network], average="logits")):
        offered = student(DistillationMixin, teacher=teacher).objective_tensors({"inputs": inputs, "logits": logits})
        torch.testing.assert_close(offered["teacher_logits"], wanted)
    pair = student(OnlineDistillationMixin, peer=network, peer_objective=Objective({"kd": Term(KD(), 0.0)}))
    torch.testing.assert_close(pair.apply_objective(inputs=inputs, logits=logits)["peer_logits"].detach(), wanted)
    samples = [
        {"inputs": {name: value[n] for name, value in inputs.items()} if isinstance(inputs, dict) else inputs[n]}
        for n in range(5)
    ]
    cached = load_cached_teacher(cache_teacher(network, samples, tmp_path, batch_size=2))
    torch.testing.assert_close(cached(torch.arange(5)), wanted)


@pytest.mark.parametrize("form", FORMS)
def test_ferkd_takes_every_form(form):
    module = FerKDDistiller(
        Network(form), low=0.0, middle=0.5, network=nn.Linear(4, 3), num_classes=3, objective=Objective({"kd": KD()})
    )
    assert module.adapted(INPUTS, torch.arange(5) % 3).target.shape == (5, 3)


@pytest.mark.parametrize(
    ("output", "came"),
    [({"aux": torch.zeros(2)}, "a mapping of 'aux'"), ((), "a tuple"), (3, "a int"), ({}, "a mapping of nothing")],
)
def test_what_holds_no_logits_is_one_sentence(output, came):
    with pytest.raises(ValueError, match=f"^Student: the teacher returned {came}, which holds no logits"):
        logits_of("Student: the teacher", output)


def test_a_network_that_takes_the_mapping_itself_gets_it():
    class Whole(Network):
        def forward(self, batch):
            return super().forward(**batch)

    network = Whole("tensor")
    torch.testing.assert_close(call(network, BY_NAME), network.layer(INPUTS * MASK))


def test_what_a_network_does_not_take_is_named():
    with pytest.raises(
        ValueError, match=r"^Network: 'ids', 'index' came as inputs, but its forward takes no 'index'; lea"
    ):
        call(Network("tensor"), {"ids": INPUTS, "index": torch.arange(5)})


def test_a_cache_for_generation_is_not_asked_for():
    class Cached(Network):
        config = "of transformers"

        def forward(self, ids, use_cache=True):
            return super().forward(ids), use_cache

    network = Cached("tensor")
    assert [call(network, given)[1] for given in (INPUTS, {"ids": INPUTS})] == [False, False]
    assert call(network, {"ids": INPUTS, "use_cache": True})[1]
