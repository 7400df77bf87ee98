import json
import math

import pytest
import torch
from hydra.errors import InstantiationException

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.config.settings import TrainSettings
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.enable_progress_bar=false",
    "data.max_bytes=100000",
    "data.block_length=32",
    "data.batch_size=4",
    "model.width=16",
    "model.depth=1",
]


@pytest.fixture
def train_short(tmp_path, cache):
    """Train with overrides; the scores, whose report is in `tmp_path / name`."""

    def run(*overrides, name="run"):
        config = composed("experiment=language_model", *SHORT, f"cache={cache}", *overrides)
        return train(config, tmp_path / name).networks

    return run


def check_report(folder, scores):
    content = json.loads((folder / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    text = (folder / "report.md").read_text()
    assert [network["name"] for network in content["networks"]] == [score.trained.name for score in scores]
    for score, network in zip(scores, content["networks"], strict=True):
        assert "| " + " | ".join(score.cells()) + " |" in text
        assert network["val_bits_per_byte"] == pytest.approx(network["val_nats_per_byte"] / math.log(2))
        # Untrained, a network gives each byte 1/256.
        assert 0 < network["val_nats_per_byte"] < math.log(256) + 0.1
        assert network["tokens_per_second"] > 0 and network["peak_memory"] > 50 * 2**20
        assert len(network["history"]["train/loss"]) == len(network["history"]["val/loss"]) == 2
    assert content["pictures"] == ["losses.png"]
    assert (folder / "losses.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return content


def test_language_model_runs_and_reports(train_short, tmp_path, capsys):
    scores = train_short()
    check_report(tmp_path / "run" / "report", scores)
    assert [score.trained.label for score in scores] == ["student (ce)"]
    shown = capsys.readouterr().out
    assert all(cell in shown for cell in scores[0].cells()), "a cell of the printed table is cut off"


def test_packed_documents_distil(train_short, tmp_path):
    small = ["experiment=distill_packed", "teacher.width=24", "teacher.depth=1", "data.max_bytes=30000"]
    scores = train_short(*small)
    check_report(tmp_path / "run" / "report", scores)
    assert [score.trained.label for score in scores] == ["teacher (ce)", "baseline (ce)", "student (ce + forward_kl)"]


def test_the_student_distils_on_what_it_draws(train_short, tmp_path):
    small = ["experiment=distill_on_policy", "teacher.width=24", "teacher.depth=1"]
    short = ["language_models.student.prompt_length=12", "language_models.student.max_new_tokens=9"]
    scores = train_short(*small, *short)
    check_report(tmp_path / "run" / "report", scores)
    assert [score.trained.label for score in scores][2] == "student (generalized_jsd)"


def test_distillation_keeps_teacher_and_baseline(train_short, tmp_path):
    teacher = ["experiment=distill_language_model", "teacher.width=28", "teacher.depth=1", "seed=3"]
    first = train_short(*teacher, name="first")
    second = train_short(*teacher, "objective=kd", name="second")
    check_report(tmp_path / "first" / "report", first)
    assert [score.trained.label for score in first] == ["teacher (ce)", "baseline (ce)", "student (ce + forward_kl)"]
    assert [score.trained.kept for score in first] == [False, False, False]
    assert [score.trained.kept for score in second] == [True, True, False]
    assert [score.val for score in first[:2]] == [score.val for score in second[:2]]
    assert first[2].val != second[2].val
    assert first[0].parameters > first[1].parameters == first[2].parameters


@pytest.mark.parametrize(
    "overrides",
    [[], ["experiment=distill_language_model", "teacher.width=24", "teacher.depth=1"]],
    ids=["alone", "distilled"],
)
def test_reference_gives_the_same_loss_curve(train_short, tmp_path, overrides):
    # A point after every step.
    steps = ["trainer.max_epochs=10", "trainer.limit_train_batches=1", *overrides]
    curves, weights = {}, {}
    for impl in ("reference", "chunked"):
        scores = train_short(*steps, f"impl={impl}", name=impl)
        history = scores[-1].trained.history
        curves[impl] = {name: history[name] for name in history if "loss" in name}
        weights[impl] = scores[-1].trained.network.state_dict()
    assert len(curves["chunked"]["train/loss"]) == 10
    losses = curves["chunked"]["train/loss"]
    assert losses[-1] < losses[0] - 0.1, "nothing was learnt"
    for name, values in curves["reference"].items():
        # Float32 rounding, which Adam's first steps, of size lr whatever the gradient's, enlarge.
        assert curves["chunked"][name] == pytest.approx(values, rel=1e-4), name
    # They took different ways: equal to the last bit would mean that impl went nowhere.
    assert any(not torch.equal(weights["chunked"][name], weights["reference"][name]) for name in weights["chunked"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("impl=chunkd", r"language_models.student.impl='chunkd': give one of auto, reference, .*chunked"),
        (
            "model.hidden=3",
            r"there is no 'hidden' in model; choose one of: attention, attention_power, context_length, depth",
        ),
        ("data.blocks=3", r"there is no 'blocks' in data; choose one of: batch, batch_size, block_length, max_bytes"),
        ("impll=auto", r"there is no 'impll' in the configuration; did you mean impl\?"),
        ("objective=nkdd", r"there is no objective 'nkdd'"),
        ("data=digits", r"model.vocabulary_size=None: give an integer"),
        ("experiment=distill_language_model teacher=none", r"teacher.network={}: give a configuration of a Module"),
    ],
)
def test_wrong_names_are_one_line(line, message):
    with pytest.raises(ConfigError, match=message) as found:
        own = [] if "experiment=" in line else ["experiment=language_model"]
        check_overrides("train", [*own, *line.split()], TrainSettings)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=kd"], "term 'kd' takes 'teacher_logits'"),
        (["model.heads=5"], "heads=5 came with width=16"),
        (["experiment=distill_language_model", "impl=recompute"], "impl='recompute'"),
    ],
)
def test_what_can_not_train_is_known_before_training(overrides, message, cache):
    with pytest.raises((ValueError, InstantiationException), match=message):
        rehearse(composed("experiment=language_model", *SHORT, f"cache={cache}", *overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["objective=emo"],
        ["objective=noisefit", "callbacks=adaptive_noise"],
        ["objective=attention_entropy_regularizer", "callbacks=attention_entropy"],
        ["callbacks=dynamic_ema"],
        ["model=multi_token_transformer"],
        ["model.attention=lssar"],
        ["model=hugging_face_causal", "model.model_type=gpt2"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_each_way_of_training_is_an_override(train_short, tmp_path, overrides):
    scores = train_short(*overrides)
    assert 0 < scores[0].val < math.log(256) + 0.1
    assert (tmp_path / "run" / "report" / "report.json").is_file()
