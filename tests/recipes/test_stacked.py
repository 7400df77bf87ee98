"""Seeds that are trained at once are the networks that they would be one by one, or there is a reason."""

import pytest

from lightning_losses.experiments.kinds.classification import ImageClassification
from lightning_losses.experiments.training.evaluation import predict_logits
from lightning_losses.experiments.training.stacked import train_stacked, why_one_by_one
from lightning_losses.teachers import CachedLogits
from tests.recipes.conftest import composed

SMALL = ["data=digits", "trainer.max_epochs=2", "trainer.limit_train_batches=3", "trainer.enable_progress_bar=false"]


def student(seed, *words):
    config = composed(*SMALL, *words, f"seed={seed}", f"data.split_seed={seed}")
    return ImageClassification(config, "", ()).trainings()["student"]


def taught(training):
    teacher = training.teacher.build().get_submodule("network")
    return CachedLogits(predict_logits(teacher.eval(), training.datamodule.train))


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=classify", "objective=focal", "data.train_rows=100"],
        ["experiment=distill", "objective=nkd", "optimizer=sgd", "optimizer.lr=0.1"],
        ["experiment=distill", "objective=dkd", "data.batch_size=300"],
    ],
)
def test_each_network_is_what_its_own_training_makes(words, tmp_path):
    trainings = [student(seed, *words) for seed in (0, 3)]
    teachers = None if trainings[0].teacher is None else [taught(training) for training in trainings]
    assert why_one_by_one(trainings, teachers) is None
    for number, trained in enumerate(train_stacked(trainings, teachers)):
        alone = trainings[number].run(tmp_path / str(number), teacher=teachers and teachers[number]).network
        began = trainings[number].build(teachers and teachers[number]).network.state_dict()
        for name, value in alone.state_dict().items():
            moved = (value - began[name]).norm()
            assert (trained.network.state_dict()[name] - value).norm() <= 1e-4 * moved, name


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["objective=ce"], None),
        (["trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches=2"),
        (["trainer.gradient_clip_val=1.0"], "trainer.gradient_clip_val=1.0"),
        (["trainer.precision=bf16-mixed"], "trainer.precision=bf16-mixed"),
        (["weights=best"], "weights=best asks for more than the last step's"),
        (["callbacks=grokking"], "it has callbacks"),
        (["data.samples_per_class=8"], "its batches are planned"),
        (["model=test_resnet"], "its network has buffers or draws random numbers"),
        (["objective=adafocal"], "its objective has a state"),
        (["objective=sinkd", "experiment=distill"], "its teacher answers anew in every step"),
    ],
)
def test_what_is_not_the_same_at_once_says_why(words, reason):
    words = words if "experiment=distill" in words else ["experiment=classify", *words]
    assert why_one_by_one([student(seed, *words) for seed in (0, 1)]) == reason
