"""What a user is told who can't know what to do: what came, what was expected, and the remedy, in one sentence."""

import re
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
from lightning_losses.objective import WarmUp

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
    class Student(L.LightningModule, DistillationMixin):
        pass


def step(objective=None):
    return Own(objective).training_step(torch.zeros(3, 2), 0)


MESSAGES = {
    "a schedule where the data have no length": (
        warm_up_without_a_length,
        r"gave no 'progress'; set max_steps \(or max_epochs, where the loader has a length\), or give progress=",
    ),
    "a term of features without features": (
        lambda: Objective({"hint": FitNetHint(), "ce": CrossEntropy()})(logits=LOGITS, target=TARGET),
        r"'hint' \(FitNetHint\) needs 'feature_maps', 'teacher_feature_maps'; the step offered 'logits', 'target'; "
        r"DistillationMixin gives what layers put out, by self\.tap\(student=.*, teacher=.*\); FeatureTap taps one\.$",
    ),
    "a module of torch's without the names of its tensors": (
        lambda: Objective({"ce": Term(nn.CrossEntropyLoss())})(logits=LOGITS, target=TARGET),
        r"'ce' \(CrossEntropyLoss\) needs 'input'; the step offered 'logits', 'target'; say which of them it takes, "
        r"such as Term\(loss, inputs=\{'input': 'logits'\}\)\.$",
    ),
    "a teacher of other classes": (
        lambda: KD()(LOGITS, torch.eye(3, 5)),
        r"teacher_logits of shape \[3, 5\] came with logits of shape \[3, 3\]; .* shared ones by AlignedVocabulary",
    ),
    "a teacher's head of another vocabulary": (
        lambda: linear_distillation(torch.eye(3), torch.eye(5, 3), torch.eye(3), torch.eye(6, 3), objective="kd"),
        r"the teacher's vocabulary of 6 came with the student's of 5; say by vocabulary= what to do with the others",
    ),
    "classes that do not come last": (
        lambda: CrossEntropy()(torch.zeros(2, 4, 5, 8), torch.zeros(2, 5, 8, dtype=torch.long)),
        r"classes come last: from \[N, C, \.\.\.\] give logits\.movedim\(1, -1\)\.$",
    ),
    "a target that is no class": (
        lambda: CrossEntropy()(LOGITS, TARGET + 1),
        r"target 3 came with 3 classes; give 0 to 2, or ignore_index=-100\.$",
    ),
    "binary maps for a calibrator": (
        lambda: TemperatureScaling().fit(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)),
        r"give one int64 class index per row, or one score per sample: logits\.flatten\(\) and target\.flatten\(\)\.$",
    ),
    "a column of binary scores for a calibrator": (
        lambda: TemperatureScaling().fit(torch.zeros(6, 1), torch.ones(6, 1, dtype=torch.long)),
        r"give \[N, C\], or one score per sample flattened to \[N\]\.$",
    ),
    "no objective": (step, r"^Own: no objective is set; set self\.objective = Objective\(\{'ce': CrossEntropy\(\)\}\)"),
    "a loss for an objective": (lambda: step(CrossEntropy()), r"^Own: self\.objective is a CrossEntropy; set"),
    "a dictionary for an objective": (lambda: step({"ce": CrossEntropy()}), r"^Own: self\.objective is a dict; set"),
    "a mixin behind the module": (
        mixin_behind,
        r"LightningModule stands before DistillationMixin in its bases.*write class Student\(DistillationMixin, Ligh",
    ),
}


@pytest.mark.parametrize("situation", MESSAGES)
def test_a_message_says_what_came_what_was_expected_and_what_to_do(situation):
    cause, message = MESSAGES[situation]
    with pytest.raises(ValueError) as found:
        cause()
    assert re.search(message, str(found.value)), found.value
    assert "\n" not in str(found.value)
