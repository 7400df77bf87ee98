"""What a run leaves for Weights & Biases, read from the files that `wandb sync` would send."""

import json
import warnings

import pytest
import torch
import wandb
from PIL import Image

from lightning_losses.experiments.loggers.loggers import finish, log_checkpoints, log_folder
from lightning_losses.experiments.loggers.wandb_run import WandbRun

from . import wandb_file
from .conftest import SHORT, composed, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cache):
    """One distillation with calibration watched, logged offline."""
    folder = tmp_path_factory.mktemp("run")
    overrides = ["logger=wandb", "callbacks=calibration", "callbacks.calibration_monitor.every_n_epochs=1"]
    with warnings.catch_warnings():
        # A network of three steps may be so unsure that its best temperature lies at the range's end.
        warnings.filterwarnings("ignore", message="TemperatureScaling: the best temperature lies outside")
        train(composed(*SHORT, f"cache={cache}", *overrides), folder)
    return folder


@pytest.fixture(scope="module")
def records(folder):
    return wandb_file.records(folder)


def media(folder, kind, name):
    (run,) = folder.glob("wandb/offline-run-*")
    return sorted((run / "files" / "media" / kind).glob(f"{name}_*"))


def test_the_whole_resolved_configuration_is_logged(records):
    settings = wandb_file.settings(records)
    assert settings["optimizer"]["lr"] == 0.01 and settings["data"]["_target_"].endswith("Digits")
    # An interpolation, resolved.
    assert settings["modules"]["student"]["network"]["width"] == 4
    assert "${" not in json.dumps(settings)


def test_groups_of_metrics_have_their_axis_and_summary(records):
    axes = wandb_file.axes(records)
    # Lightning's own, for what has none.
    assert axes["*"] == ("trainer/global_step", set())
    assert axes["val/loss"] == axes["val/calibration/ece"] == ("epoch", {"min", "last"})
    assert axes["val/accuracy"] == ("epoch", {"max", "last"})
    assert axes["val/calibration/reliability"] == ("epoch", set())
    logged = {name for line in wandb_file.history(records) for name in line}
    for name in ("train/loss", "val/loss", "val/accuracy", "val/calibration/ece", "test/nll", "calibration/ece"):
        assert name in logged, name
    # Every line of a group has the axis that it is drawn over.
    for line in wandb_file.history(records):
        if any(name.startswith(("val/", "train/")) and not name.count(".") for name in line):
            assert "epoch" in line and "trainer/global_step" in line


def test_the_summary_has_the_best_and_the_last_of_a_history(records):
    summary = {}
    for record in records:
        for item in record.summary.update:
            summary[".".join(item.nested_key) or item.key] = json.loads(item.value_json)
    losses = [line["val/loss"] for line in wandb_file.history(records) if "val/loss" in line]
    accuracies = [line["val/accuracy"] for line in wandb_file.history(records) if "val/accuracy" in line]
    assert len(losses) == 2
    assert summary["val/loss"] == {"min": min(losses), "last": losses[-1]}
    assert summary["val/accuracy"] == {"max": max(accuracies), "last": accuracies[-1]}


@pytest.mark.parametrize(
    "name",
    [
        "calibration/reliability_teacher",
        "calibration/reliability_baseline",
        "calibration/reliability_student",
        "val/calibration/reliability",
        "report/validation",
        "report/losses",
    ],
)
def test_pictures_are_pngs_in_their_group(folder, name):
    files = media(folder, "images", name)
    assert len(files) == (2 if name.startswith("val/") else 1)
    for file in files:
        with Image.open(file) as picture:
            assert picture.format == "PNG" and min(picture.size) > 200


def test_the_table_of_networks_has_the_reports_numbers(folder):
    (file,) = media(folder, "table", "report/networks")
    table = json.loads(file.read_text())
    report = json.loads((folder / "report" / "report.json").read_text())
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["data"]}
    assert len(rows) == 3
    for network in report["networks"]:
        row = rows[network["label"]]
        assert row["nll"] == network["before"]["nll"] and row["ece calibrated"] == network["after"]["ece"]
        assert row["temperature"] == network["temperature"]


def test_the_table_of_bins_is_the_reliability_diagram(folder):
    (file,) = media(folder, "table", "calibration/bins_student")
    table = json.loads(file.read_text())
    assert table["columns"] == ["stage", "bin", "samples", "confidence", "accuracy"]
    student = json.loads((folder / "report" / "report.json").read_text())["networks"][-1]
    for stage in ("before", "after"):
        rows = [row for row in table["data"] if row[0] == stage]
        total = sum(row[2] for row in rows)
        # The expected calibration error, from the table alone.
        error = sum(row[2] * abs(row[3] - row[4]) for row in rows) / total
        assert len(rows) == 15 and total == 359
        # Float64 sums of float32 confidences, in another order.
        assert error == pytest.approx(student[stage]["ece"], abs=1e-6)


def test_offline_checkpoints_stay_where_they_are(records):
    assert [artifact for artifact in wandb_file.artifacts(records) if artifact.type == "model"] == []


def test_checkpoints_become_an_artifact_where_the_run_is_told_to(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "last.ckpt")
    logger = WandbRun(save_dir=tmp_path, offline=True)
    # What an online run decides; everything else is W&B's own.
    logger.log_model = True
    log_checkpoints(logger, tmp_path, "student", {"test/accuracy": 0.5})
    finish(logger)
    models = [item for item in wandb_file.artifacts(wandb_file.records(tmp_path)) if item.type == "model"]
    (model,) = models
    assert model.name.startswith("student-") and json.loads(model.metadata) == {"test/accuracy": 0.5}
    assert [entry.path for entry in model.manifest.contents] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("environment", "options", "offline", "log_model"),
    [
        ({}, {}, True, False),
        ({"WANDB_MODE": "offline"}, {}, True, False),
        ({"WANDB_MODE": "online"}, {}, False, True),
        ({"WANDB_MODE": "online"}, {"log_model": False}, False, False),
        ({"WANDB_SWEEP_ID": "abc"}, {}, False, True),
        ({"WANDB_SWEEP_ID": "abc", "WANDB_MODE": "offline"}, {}, True, False),
        ({"WANDB_MODE": "offline"}, {"offline": False}, False, True),
        ({"WANDB_MODE": "online"}, {"offline": True}, True, False),
    ],
)
def test_one_configuration_is_offline_or_online_by_its_surroundings(
    monkeypatch, environment, options, offline, log_model
):
    for name in ("WANDB_MODE", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    logger = WandbRun(**options)
    assert (logger.offline, logger.log_model) == (offline, log_model)
    assert logger._wandb_init.get("mode") == (None if offline else "online")


def test_checkpoints_that_can_not_be_sent_are_one_sentence():
    with pytest.raises(ValueError, match="log_model=true came while offline"):
        WandbRun(offline=True, log_model=True)


def test_the_table_and_the_figures_of_a_comparison_are_a_run_of_their_own(tmp_path):
    report = tmp_path / "report"
    report.mkdir()
    (report / "comparison.csv").write_text("run,metric,mean,p\nkd,ece,0.25,\nce,ece,0.5,0.01\n")
    Image.new("RGB", (8, 8)).save(report / "intervals.png")
    log_folder(composed("logger=wandb"), tmp_path)
    (file,) = media(tmp_path, "table", "report/comparison")
    table = json.loads(file.read_text())
    assert table["columns"] == ["run", "metric", "mean", "p"]
    assert table["data"] == [["kd", "ece", 0.25, None], ["ce", "ece", 0.5, 0.01]]
    assert len(media(tmp_path, "images", "report/intervals")) == 1


def test_a_run_that_fails_is_ended_as_failed(tmp_path, cache, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no space left")

    monkeypatch.setattr("lightning_losses.experiments.kinds.classification.evaluate", fail)
    with pytest.raises(RuntimeError, match="no space left"):
        train(composed(*SHORT, f"cache={cache}", "logger=wandb"), tmp_path)
    assert wandb.run is None
    (end,) = [record.exit for record in wandb_file.records(tmp_path) if record.WhichOneof("record_type") == "exit"]
    assert end.exit_code == 1


def test_a_grokking_run_logs_its_monitors(tmp_path):
    overrides = ["experiment=grok", "trainer.max_steps=20", "data.prime=23", "logger=wandb"]
    train(composed(*overrides), tmp_path)
    records = wandb_file.records(tmp_path)
    logged = {name for line in wandb_file.history(records) for name in line}
    assert {"grokking/val", "val/accuracy", "test/accuracy"} <= logged
    assert any(name.startswith("weight_norms/") for name in logged)
    assert len(media(tmp_path, "images", "report/grokking")) == 1
