"""The mixins of a module may stand in any order before LightningModule: each gets what is of the batch."""

import itertools

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import PSKD, BinaryKLNorm, CrossEntropy, Objective, Term
from lightning_losses.mixins import DistillationMixin, OnlineDistillationMixin, SelfDistillationMixin
from lightning_losses.mixins.dual_head import DualHeadMixin
from lightning_losses.mixins.mixup import MixupMixin
from lightning_losses.mixins.multi_aspect import MultiAspectMixin
from lightning_losses.modules.dual_head_distiller import DualHeadDistiller
from lightning_losses.modules.ensemble_classifier import EnsembleClassifier
from lightning_losses.teachers import TeacherEnsemble

INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
BATCH = {
    "inputs": INPUTS,
    "target": torch.tensor([0, 1, 2, 0, 1, 255]),
    "index": torch.arange(6),
    "epoch_progress": 0.5,
}

CLOCK = {"epoch_progress": BATCH["epoch_progress"]}


def ce():
    return CrossEntropy(ignore_index=255)


def mixture_ce():
    return Term(CrossEntropy(), inputs={"logits": "mixup_logits", "target": "mixup_target"})


@pytest.mark.parametrize(
    "bases",
    list(itertools.permutations([SelfDistillationMixin, DualHeadMixin, MixupMixin, DistillationMixin])),
    ids=lambda bases: "-".join(base.__name__.removesuffix("Mixin") for base in bases),
)
def test_what_layers_put_out_is_that_of_the_batch(bases):
    class Student(*bases, L.LightningModule):
        def forward(self, inputs):
            return self.network(inputs)

    torch.manual_seed(0)
    student = Student()
    student.network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    # A teacher of the student's own first layer.
    student.teacher = nn.Sequential(student.network[0], nn.Linear(5, 3))
    auxiliary = Term(BinaryKLNorm(), inputs={"logits": "auxiliary_logits"})
    features = Term(lambda features: features.square().mean())
    student.objective = Objective({"ce": ce(), "mixture": mixture_ce(), "aux": auxiliary, "features": features})
    student.tap_features(student.network, "0")
    student.add_auxiliary_head(student.network, "2", nn.Linear(5, 3))
    offered = student.objective_tensors({**BATCH, "logits": student(INPUTS)})
    hidden = student.network[0](INPUTS)
    assert torch.equal(offered["features"], hidden) and offered["mixup_logits"].shape == (6, 3)
    assert torch.equal(offered["auxiliary_logits"], student.auxiliary_head(hidden.tanh()))
    # The sample that the objective ignores has no label in a mixture either.
    assert offered["mixup_target"][5].tolist() == [0, 0, 0]


def past(module):
    return module.sample_states["past_probabilities"].columns["probabilities"][:6]


@pytest.mark.parametrize(
    "bases",
    list(itertools.permutations([OnlineDistillationMixin, SelfDistillationMixin])),
    ids=["online first", "self first"],
)
def test_predictions_are_remembered_wherever_the_objective_is_evaluated(bases):
    class Pair(*bases, L.LightningModule):
        pass

    pair = Pair()
    pair.network, pair.peer = nn.Linear(4, 3), nn.Linear(4, 3)
    pair.objective, pair.peer_objective = Objective({"ce": ce(), "ps": PSKD(ignore_index=255)}), Objective({"ce": ce()})
    logits = pair.network(INPUTS)
    pair.apply_objective(logits=logits, **BATCH)
    torch.testing.assert_close(past(pair), logits.detach().softmax(-1))
    pair.peer_objective = Objective({"ps": PSKD()})
    with pytest.raises(ValueError, match="Pair: peer_objective takes 'past_probabilities', and there is only the stud"):
        pair.apply_objective(logits=logits, **BATCH)


@pytest.mark.parametrize(
    "bases",
    list(itertools.permutations([MultiAspectMixin, SelfDistillationMixin])),
    ids=["aspects first", "self first"],
)
def test_remembered_are_the_classes_alone(bases):
    class Student(*bases, L.LightningModule):
        pass

    student, logits = Student(), torch.randn(6, 5)
    aspects = Term(lambda aspect_logits, teacher_aspects: (aspect_logits - teacher_aspects).square().mean())
    student.objective = Objective({"ps": PSKD(ignore_index=255), "aspects": aspects})
    student.apply_objective(logits=logits, teacher_aspects=torch.zeros(6, 2), **BATCH)
    torch.testing.assert_close(past(student), logits[:, :3].softmax(-1))


def test_an_aligned_step_remembers_too():
    auxiliary = Term(BinaryKLNorm(), inputs={"logits": "auxiliary_logits"})
    objective = Objective({"ps": PSKD(ignore_index=255), "aux": auxiliary})
    module = DualHeadDistiller(
        teacher=nn.Linear(4, 3), network=nn.Linear(4, 3), num_classes=3, objective=objective, align_gradients=True
    )
    module.training_step({name: value[:5] for name, value in BATCH.items() if name != "epoch_progress"} | CLOCK, 0)
    torch.testing.assert_close(past(module)[:5], module.network(INPUTS[:5]).detach().softmax(-1))


def test_an_ensemble_shares_no_memory():
    ensemble = TeacherEnsemble([nn.Linear(4, 3), nn.Linear(4, 3)])
    with pytest.raises(ValueError, match="EnsembleClassifier: the objective takes 'past_probabilities'"):
        EnsembleClassifier(network=ensemble, objective=Objective({"ps": PSKD()}), num_classes=3)
