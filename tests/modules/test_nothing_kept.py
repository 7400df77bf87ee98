"""A batch in which no sample has a target adds nothing to any metric of any ready module."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import KD, BinaryKLNorm, CrossEntropy, Objective, Term
from lightning_losses.losses import TGeoKD
from lightning_losses.modules import Classifier, Distiller, OnlineDistiller
from lightning_losses.modules.co_teacher import CoTeacher
from lightning_losses.modules.dual_head_distiller import DualHeadDistiller
from lightning_losses.modules.ema_distiller import EMADistiller
from lightning_losses.modules.ensemble_classifier import EnsembleClassifier
from lightning_losses.modules.evaluation import evaluate
from lightning_losses.modules.ferkd_distiller import FerKDDistiller
from lightning_losses.modules.fine_tuner import FineTuner
from lightning_losses.modules.full_batch_learner import FullBatchLearner
from lightning_losses.modules.language_model import LanguageModel, LanguageModelDistiller
from lightning_losses.modules.tgeo_distiller import TGeoDistiller
from lightning_losses.networks.transformer import Transformer
from lightning_losses.teachers import TeacherEnsemble


def linear():
    return nn.Linear(4, 3)


def transformer():
    return Transformer(9, context_length=6, width=8, depth=1, heads=2)


def ce(**terms):
    return Objective({"ce": CrossEntropy(), **terms})


def classes(**options):
    return {"network": linear(), "objective": ce(), "num_classes": 3, **options}


MODULES = {
    "classifier": lambda: Classifier(**classes()),
    "classifier that ignores 1": lambda: Classifier(
        **classes(objective=Objective({"ce": CrossEntropy(ignore_index=1)}))
    ),
    "distiller": lambda: Distiller(linear(), **classes(objective=ce(kd=KD()))),
    "co-teacher": lambda: CoTeacher(linear(), ce(), 0.5, **classes()),
    "online": lambda: OnlineDistiller(linear(), ce(kd=KD()), **classes(objective=ce(kd=KD()))),
    "dual head": lambda: DualHeadDistiller(
        teacher=linear(),
        **classes(objective=ce(auxiliary=Term(BinaryKLNorm(), inputs={"logits": "auxiliary_logits"}))),
    ),
    "moving average": lambda: EMADistiller(**classes(objective=ce(kd=KD()))),
    "ensemble": lambda: EnsembleClassifier(**classes(network=TeacherEnsemble([linear(), linear()]))),
    "ferkd": lambda: FerKDDistiller(linear(), low=0.0, middle=0.5, **classes()),
    "fine tuner": lambda: FineTuner(linear(), **classes()),
    "tgeo": lambda: TGeoDistiller(linear(), **classes(objective=Objective({"tgeo": TGeoKD()}))),
    "full batch": lambda: FullBatchLearner(linear(), ce()),
    "language model": lambda: LanguageModel(transformer(), ce()),
    "language model distiller": lambda: LanguageModelDistiller(
        transformer(), network=transformer(), objective=ce(kd=KD())
    ),
}


def batches(name):
    generator = torch.Generator().manual_seed(3)
    ignored = 1 if "ignores" in name else -100
    shape = (3, 6) if "language" in name else (6,)
    made = []
    for kept in (True, False, True):
        target = torch.randint(3, shape, generator=generator)
        target.flatten()[0] = ignored
        inputs = torch.randint(9, shape, generator=generator) if len(shape) == 2 else torch.randn(6, 4)
        made.append({"inputs": inputs, "target": target if kept else torch.full(shape, ignored)})
    return made


@pytest.mark.parametrize("name", MODULES)
def test_it_adds_nothing_in_validation_and_test(name):
    torch.manual_seed(0)
    module, data = MODULES[name](), batches(name)
    for stage in ("validate", "test") if hasattr(module, "test_metrics") or "language" in name else ("validate",):
        results = []
        for given in (data, data[::2], data[1:2]):
            trainer = L.Trainer(
                accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
                enable_model_summary=False,
            )  # fmt: skip
            results.append(getattr(trainer, stage)(module, DataLoader(given, batch_size=None), verbose=False)[0])
        assert results[0] == pytest.approx(results[1], rel=1e-6) and results[0]
        assert results[2] == {}
        assert all(0 < value < 10 for metric, value in results[0].items() if metric.endswith("loss"))


@pytest.mark.parametrize("make", [MODULES["classifier"], MODULES["full batch"]], ids=["classifier", "full batch"])
def test_probabilities_count_as_their_likeliest_class_and_zeros_as_no_target(make):
    torch.manual_seed(0)
    module, results = make(), []
    inputs, target = torch.randn(6, 4), torch.tensor([0, -100, 2, 1, -100, 1])
    soft = nn.functional.one_hot(target.clamp(min=0), 3).float() * (target >= 0).unsqueeze(1)
    for given in (target, soft):
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
            enable_model_summary=False,
        )  # fmt: skip
        batch = {"inputs": inputs, "target": given}
        results.append(trainer.validate(module, DataLoader([batch], batch_size=None), verbose=False)[0])
    assert results[0] == pytest.approx(results[1], rel=1e-6) and len(results[0]) >= 2


def test_a_masked_class_without_probability_adds_nothing():
    logits, target = torch.tensor([[1.0, 2.0, -torch.inf]]), torch.tensor([[0.5, 0.5, 0.0]])
    torch.testing.assert_close(evaluate(logits, target).loss, CrossEntropy()(logits, target))
    assert evaluate(logits, target).loss.isfinite() and evaluate(logits, torch.tensor([2])).loss == torch.inf


def test_a_fit_whose_validation_keeps_nothing_logs_nothing_of_it():
    module, batch = MODULES["full batch"](), {"inputs": torch.randn(2, 4), "target": torch.tensor([-100, -100])}
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, max_epochs=1,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, *(DataLoader([batch], batch_size=None) for _ in range(2)))
    assert trainer.callback_metrics == {}


@pytest.mark.parametrize("soft", [False, True])
def test_double_precision_is_measured_in_double_precision(soft):
    logits, target = torch.randn(4, 3, dtype=torch.float64), torch.arange(4) % 3
    given = F.one_hot(target, 3).double() if soft else target
    torch.testing.assert_close(evaluate(logits, given).loss, F.cross_entropy(logits, target), rtol=1e-14, atol=0)
