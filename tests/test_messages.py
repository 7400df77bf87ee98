"""What a user is told who can't know what to do: what came, what was expected, and the remedy, in one sentence."""

import warnings

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_losses import (
    KD,
    CrossEntropy,
    DistillationMixin,
    FitNetHint,
    Objective,
    ObjectiveMixin,
    Term,
    linear_distillation,
)
from lightning_losses.calibrators import TemperatureScaling
from lightning_losses.modules import Classifier
from lightning_losses.objective import WarmUp
from tests.mixins.test_tap import Student

LOGITS, TARGET = torch.eye(3), torch.arange(3)


class Own(ObjectiveMixin, L.LightningModule):
    """Somebody's module, whose objective is set by the test."""

    def __init__(self, objective=None):
        super().__init__()
        self.network = nn.Linear(2, 3)
        if objective is not None:
            self.objective = objective

    def training_step(self, batch, batch_idx):
        return self.apply_objective(logits=self.network(batch), target=torch.zeros(len(batch), dtype=torch.long))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Endless(IterableDataset):
    """Data without a length."""

    def __iter__(self):
        return iter(torch.zeros(4, 2))


def warm_up_without_a_length():
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, enable_model_summary=False, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Own(Objective({"ce": Term(CrossEntropy(), weight=WarmUp(1.0, until=0.5))})), DataLoader(Endless()))


def mixin_behind():
    type("Student", (L.LightningModule, DistillationMixin), {})


def step(objective=None):
    return Own(objective).training_step(torch.zeros(3, 2), 0)


def classifier():
    return Classifier(nn.Linear(3, 3), Objective({"ce": CrossEntropy()}), num_classes=3)


OBJECTIVE = "set self.objective = Objective({'ce': CrossEntropy()}), with a name for each loss, in __init__."


def tapped(**layers):
    Student(**layers)


MESSAGES = {
    "a schedule where the data have no length": (
        warm_up_without_a_length,
        "Term: the weight of CrossEntropy follows a schedule, but the step gave no 'progress'; set max_steps (or "
        "max_epochs, where the loader has a length), or give progress=, from 0 to 1, yourself.",
    ),
    "a term of features without features": (
        lambda: Objective({"hint": FitNetHint(), "ce": CrossEntropy()})(logits=LOGITS, target=TARGET),
        "Objective: term 'hint' (FitNetHint) needs 'feature_maps', 'teacher_feature_maps'; the step offered 'logits', "
        "'target'; to give them, call self.tap(student=..., teacher=...) in a module with DistillationMixin, or use "
        "FeatureTap.",
    ),
    "a teacher that does not tell its layers": (
        lambda: tapped(student="0"),
        "Student: teacher_layer: Sequential has no feature_info that lists its stages; name the layers to tap, from "
        "0, 1, 2, 3, 4, 5.",
    ),
    "a student that does not tell its layers": (
        lambda: tapped(teacher="0"),
        "Student.tap: student: Sequential has no feature_info that lists its stages; name the layers to tap, from 0, "
        "1, 2, 3, 4, 5.",
    ),
    "a term of a teacher without one": (
        lambda: Objective({"kd": KD()})(logits=LOGITS, target=TARGET),
        "Objective: term 'kd' (KD) needs 'teacher_logits'; the step offered 'logits', 'target'; to give it, set "
        "self.teacher in a module with DistillationMixin, or run experiment=distill.",
    ),
    "a module of torch's without the names of its tensors": (
        lambda: Objective({"ce": Term(nn.CrossEntropyLoss())})(logits=LOGITS, target=TARGET),
        "Objective: term 'ce' (CrossEntropyLoss) needs 'input'; the step offered 'logits', 'target'; say which of them "
        "it takes, such as Term(loss, inputs={'input': 'logits'}).",
    ),
    "a teacher of other classes": (
        lambda: KD()(LOGITS, torch.eye(3, 5)),
        "kd: teacher_logits of shape [3, 5] came with logits of shape [3, 3]; train the student on the teacher's "
        "classes, or select the shared ones by AlignedVocabulary.",
    ),
    "a teacher's head of another vocabulary": (
        lambda: linear_distillation(torch.eye(3), torch.eye(5, 3), torch.eye(3), torch.eye(6, 3), objective="kd"),
        "linear_distillation: the teacher's vocabulary of 6 came with the student's of 5; set vocabulary='truncate' if "
        "the first ones are the same, or vocabulary='map' with student_classes= and teacher_classes=.",
    ),
    "classes that do not come last": (
        lambda: CrossEntropy()(torch.zeros(2, 4, 5, 8), torch.zeros(2, 5, 8, dtype=torch.long)),
        "cross_entropy: target of shape [2, 5, 8] came with logits of shape [2, 4, 5, 8]; class indices have shape "
        "[2, 4, 5]; classes come last: from [N, C, ...] give logits.movedim(1, -1).",
    ),
    "what a network returns in place of its logits": (
        lambda: CrossEntropy()({"logits": LOGITS, "hidden": LOGITS}, TARGET),
        "cross_entropy: logits is a dict with 'logits', 'hidden'; give one of the tensors in it.",
    ),
    "a target that is no class": (
        lambda: CrossEntropy()(LOGITS, TARGET + 1),
        "cross_entropy: target 3 came with 3 classes; give 0 to 2, or ignore_index=-100.",
    ),
    "binary maps for a calibrator": (
        lambda: TemperatureScaling().fit(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)),
        "TemperatureScaling: target of dtype torch.int64 and shape [2, 4, 4] came with logits of shape [2, 4, 4]; give "
        "one int64 class index per row, or one score per sample: logits.flatten() and target.flatten().",
    ),
    "a column of binary scores for a calibrator": (
        lambda: TemperatureScaling().fit(torch.zeros(6, 1), torch.ones(6, 1, dtype=torch.long)),
        "TemperatureScaling: logits of shape [6, 1] have fewer than two classes, which leaves nothing to calibrate; "
        "give [N, C], or one score per sample flattened to [N].",
    ),
    "a batch of three": (
        lambda: classifier().training_step([LOGITS, TARGET, TARGET], 0),
        "Classifier: a batch of a list of 3 came; give a mapping of 'inputs' and 'target', a tuple of both, or a "
        "mapping of 'labels' and what the network takes by name.",
    ),
    "a batch of other names": (
        lambda: classifier().validation_step({"x": LOGITS, "y": TARGET}, 0),
        "Classifier: a batch of 'x', 'y' came; give a mapping of 'inputs' and 'target', a tuple of both, or a mapping "
        "of 'labels' and what the network takes by name.",
    ),
    "no objective": (step, f"Own: no objective is set; {OBJECTIVE}"),
    "a loss for an objective": (
        lambda: step(CrossEntropy()),
        f"Own: self.objective is a CrossEntropy; {OBJECTIVE}",
    ),
    "a dictionary for an objective": (
        lambda: step({"ce": CrossEntropy()}),
        f"Own: self.objective is a dict; {OBJECTIVE}",
    ),
    "a mixin behind the module": (
        mixin_behind,
        "Student: LightningModule comes before DistillationMixin in its bases, and would hide its overrides; write "
        "class Student(DistillationMixin, LightningModule).",
    ),
}


@pytest.mark.parametrize("situation", MESSAGES)
def test_a_message_says_what_came_what_was_expected_and_what_to_do(situation):
    cause, message = MESSAGES[situation]
    with pytest.raises(ValueError) as found:
        cause()
    assert str(found.value) == message
