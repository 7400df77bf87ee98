"""The calibrate recipe: files and checkpoints in; a calibrator, a table and pictures out."""

import json
from typing import get_type_hints

import numpy as np
import pyarrow.parquet
import pytest
import torch
from hydra import compose, initialize_config_module
from safetensors.torch import save_file

from lightning_losses.calibrators import APS, LAC, RAPS, Calibrator, ConformalSets, TemperatureScaling
from lightning_losses.experiments.config.check_config import check_config
from lightning_losses.experiments.config.settings import CalibrateSettings
from lightning_losses.experiments.kinds.calibration import LogitCalibration, _with_targets
from lightning_losses.experiments.kinds.logits_file import Labelled, read_file, read_logits
from lightning_losses.experiments.kinds.logits_source import (
    Split,
    check_checkpoint,
    checkpoint_split,
    file_split,
)
from lightning_losses.metrics import SUMMARY, expected_calibration_error, set_coverage


def calibrated(folder, *overrides):
    with initialize_config_module("lightning_losses.conf", version_base="1.3"):
        config = compose("calibrate", ["resamples=5", *map(str, overrides)])
    check_config(config, CalibrateSettings)
    calibration = LogitCalibration(config)
    calibration.rehearse()
    return calibration.run(folder)


@pytest.fixture
def labelled():
    logits = 2 * torch.randn(300, 4)
    return 3 * logits, torch.multinomial(logits.softmax(-1), 1)[:, 0]


def written(folder, kind, logits, target):
    path = folder / f"logits.{kind}"
    if kind == "npz":
        np.savez(path, logits=logits.numpy(), target=target.numpy())
    elif kind == "safetensors":
        save_file({"logits": logits, "target": target}, path)
    elif kind == "unnamed.npz":
        np.savez(path, logits.numpy(), target.numpy())
    elif kind == "parquet":
        columns = {f"logit_{place}": logits[:, place].numpy() for place in range(logits.shape[1])}
        pyarrow.parquet.write_table(pyarrow.table({"id": np.arange(len(logits)), "y": target.numpy(), **columns}), path)
    elif kind == "lists.parquet":
        columns = {"labels": target.tolist(), "logits": logits.double().tolist()}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif kind == "csv":
        np.savetxt(path, np.column_stack([logits.numpy(), target.numpy()]), delimiter=",", fmt="%.9g")
    return path


@pytest.mark.parametrize("kind", ["npz", "unnamed.npz", "safetensors", "csv", "parquet", "lists.parquet"])
def test_every_kind_of_file_reads_the_same(tmp_path, labelled, kind):
    logits, target = read_logits(written(tmp_path, kind, *labelled))
    # Nine digits are float32 exactly.
    torch.testing.assert_close(logits.float(), labelled[0], rtol=0, atol=0)
    assert torch.equal(target, labelled[1])


def test_a_header_names_the_targets_column(tmp_path):
    (tmp_path / "a.csv").write_text("a,target,b\n1.5,1,0.5\n0.5,0,2.5\n")
    logits, target = read_logits(tmp_path / "a.csv")
    assert logits.tolist() == [[1.5, 0.5], [0.5, 2.5]]
    assert target.tolist() == [1, 0]


@pytest.mark.parametrize("header", ["logit_0,logit_1,target\n", "a,b,target\n", ""])
def test_a_mark_of_the_encoding_is_no_part_of_the_first_column(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"\ufeff{header}1.5,0.5,1\n0.5,2.5,0\n", encoding="utf-8")
    logits, target = read_logits(tmp_path / "a.csv")
    assert logits.tolist() == [[1.5, 0.5], [0.5, 2.5]]
    assert target.tolist() == [1, 0]


@pytest.mark.parametrize("header", [",a,b,target", "Unnamed: 0,a,b,y", "__index_level_0__,a,b,y", "a,a,b,y"])
def test_an_index_or_a_column_that_comes_twice_is_no_class(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header}\n0,1.5,0.5,1\n1,0.5,2.5,0\n")
    with pytest.raises(ValueError, match=r"columns \['.*'\] came, with no name, an index's or twice the same"):
        read_logits(tmp_path / "a.csv")
    if header.startswith(","):
        (tmp_path / "a.csv").write_text(",logit_0,logit_1,y\n0,1.5,0.5,1\n")
        assert read_logits(tmp_path / "a.csv").logits.tolist() == [[1.5, 0.5]]


def test_arrays_in_another_order_of_bytes_are_read(tmp_path, labelled):
    logits, target = labelled
    np.savez(tmp_path / "a.npz", logits=logits.numpy().astype(">f4"), target=target.numpy().astype(">i8"))
    read = read_logits(tmp_path / "a.npz")
    assert torch.equal(read.logits, logits) and torch.equal(read.target, target)


def test_it_leaves_a_calibrator_a_table_and_pictures(tmp_path, labelled):
    found = calibrated(tmp_path / "run", f"logits={written(tmp_path, 'npz', *labelled)}", "fit_fraction=0.7")
    assert (len(found.split.fit.target), len(found.split.test.target)) == (210, 90)
    loaded = Calibrator.load(tmp_path / "run" / "calibrator.safetensors")
    expected = TemperatureScaling().fit(*found.split.fit)
    torch.testing.assert_close(loaded.temperature, expected.temperature)
    content = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert list(content["before"]) == list(SUMMARY)
    after = expected_calibration_error(expected(found.split.test.logits), found.split.test.target, inputs="logits")
    assert content["after"]["ece"]["value"] == pytest.approx(float(after))
    assert content["after"]["nll"]["value"] < content["before"]["nll"]["value"]
    page = (tmp_path / "run" / "calibration.md").read_text()
    assert f"| ece, % | {100 * content['before']['ece']['value']:.2f} [" in page
    assert f"| nll | {content['before']['nll']['value']:.4f} [" in page
    for picture in ("reliability.png", "risk_coverage.png"):
        assert (tmp_path / "run" / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name",
    [
        "ensemble_temperature",
        "vector",
        "matrix",
        "dirichlet",
        "platt",
        "beta",
        "isotonic",
        "isotonic_multiclass",
        "histogram",
        "bayesian_binning",
    ],
)
def test_every_calibrator_can_be_chosen(tmp_path, labelled, name):
    path = written(tmp_path, "safetensors", *labelled)
    found = calibrated(tmp_path / "run", f"logits={path}", f"test_logits={path}", f"calibrator={name}")
    assert found.after.values["nll"] < found.before.values["nll"]
    assert Calibrator.load(tmp_path / "run" / "calibrator.safetensors").options == found.calibrator.options


@pytest.mark.parametrize(("name", "kind"), [("lac", LAC), ("aps", APS), ("raps", RAPS)])
def test_conformal_sets_leave_their_coverage_a_picture_and_the_sets(tmp_path, labelled, name, kind):
    path = written(tmp_path, "npz", *labelled)
    found = calibrated(tmp_path / "run", f"logits={path}", f"calibrator={name}", "calibrator.alpha=0.2")
    fitted = ConformalSets.load(tmp_path / "run" / "calibrator.safetensors")
    assert type(fitted) is kind and fitted.alpha == 0.2 and fitted.samples == 150
    expected = set_coverage(fitted(found.split.test.logits), found.split.test.target)
    coverage = json.loads((tmp_path / "run" / "calibration.json").read_text())["scores"]["coverage"]
    assert coverage["low"] < coverage["value"] < coverage["high"]
    assert coverage["value"] == pytest.approx(float(expected))
    assert f"| coverage, % | {100 * coverage['value']:.2f} [" in (tmp_path / "run" / "calibration.md").read_text()
    head, first, *_ = (tmp_path / "run" / "sets.csv").read_text().splitlines()
    members, label = found.scores.sets[0].nonzero().flatten().tolist(), int(found.split.test.target[0])
    assert head == "row,target,covered,size,set"
    assert first == f"0,{label},{label in members},{len(members)},{' '.join(map(str, members))}"
    assert (tmp_path / "run" / "coverage.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.npz", None, "is no file"),
        ("a.pkl", b"x", "ends in '.pkl'; give one of .npz"),
        ("a.npz", b"no zip", "can't be read"),
        ("a.safetensors", b"nothing", "can't be read"),
        ("a.csv", b"a,b\n1,2\n", "its header .* has none of target, targets, labels, label, y"),
        ("b.csv", b"1.0,2.0,0.5\n", "values in target that are not class indices"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        calibrated(tmp_path / "run", f"logits={tmp_path / name}")


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", logits=np.array([[object()]], dtype=object), target=np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match="can't be read"):
        read_logits(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": torch.zeros(3, 2)}, r"has logits \[3, 2\]; looked for"),
        ({"logits": torch.zeros(3, 2), "target": torch.zeros(2)}, r"\[3, 2\]"),
        ({"logits": torch.zeros(3, 2, dtype=torch.long), "target": torch.zeros(3)}, "int64"),
        ({"logits": torch.zeros(3), "target": torch.zeros(3)}, "give .* of a score z the logits 0 and z"),
        ({"logits": torch.zeros(3), "target": torch.zeros(3, 2)}, r"logits \[3\] of torch.float32 and target \[3, 2\]"),
        ({"probs": torch.zeros(3, 1), "target": torch.zeros(3)}, r"probs \[3, 1\], fewer than two"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, message):
    save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=message):
        read_logits(tmp_path / "a.safetensors")


def test_a_file_says_what_it_has_and_what_was_looked_for(tmp_path):
    np.savez(tmp_path / "a.npz", logits=np.zeros((3, 2)), classes=np.zeros(3))
    message = (
        r"a.npz has logits \[3, 2\], classes; looked for logits or probs, probabilities \[N, C\], and for one of "
        r"target, targets, labels, label, y \[N\]\.$"
    )
    with pytest.raises(ValueError, match=message):
        read_logits(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["probs", "probabilities"])
@pytest.mark.parametrize("target", ["targets", "labels", "label", "y"])
def test_names_that_others_use_are_read_and_said(tmp_path, labelled, name, target):
    logits, classes = labelled
    probabilities = logits.double().softmax(dim=-1).numpy()
    np.savez(tmp_path / "a.npz", **{name: probabilities, target: classes.numpy()})
    read = read_file(tmp_path / "a.npz")
    torch.testing.assert_close(read.labelled.logits, logits.double().log_softmax(dim=-1))
    assert read.taken == f"{tmp_path}/a.npz: probabilities {name} [300, 4], classes {target} [300]."
    header = ",".join([*(f"prob_{place}" for place in range(4)), "score", target])
    table = np.column_stack([probabilities, np.zeros(300), classes.numpy()])
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header=header, comments="")
    torch.testing.assert_close(read_logits(tmp_path / "a.csv").logits, read.labelled.logits)


def test_probabilities_called_logits_and_logits_called_probabilities_are_refused(tmp_path, labelled):
    logits, target = labelled
    for name, values, message in (("logits", logits.softmax(-1), "call them probs"), ("probs", logits, "sum of 1")):
        save_file({name: values, "y": target}, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=message):
            read_logits(tmp_path / "a.safetensors")


def test_rounded_probabilities_are_told_from_logits(tmp_path, labelled):
    probabilities, target = labelled[0].softmax(-1), labelled[1]
    for rounded in ((100 * probabilities).round() / 100, probabilities.bfloat16()):
        save_file({"logits": rounded, "y": target}, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match="call them probs"):
            read_logits(tmp_path / "a.safetensors")
    # In float16 no probability below 6e-8 is above 0; the logarithms of the others are float32's.
    for dtype in (torch.float16, torch.bfloat16):
        save_file({"probs": probabilities.to(dtype), "y": target}, tmp_path / "a.safetensors")
        read = read_logits(tmp_path / "a.safetensors").logits
        shown = probabilities.to(dtype) > 0
        torch.testing.assert_close(read[shown], probabilities.to(dtype).float().log()[shown], rtol=0, atol=0)


@pytest.mark.parametrize("calibrator", [TemperatureScaling(), LAC()])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rows_without_a_softmax_are_refused_and_may_be_ignored(labelled, calibrator, value):
    logits, target = labelled
    odd = logits.clone()
    odd[2] = value
    part = Labelled(odd, target)
    with pytest.raises(ValueError, match="1 of 300 rows of logits hold NaN.*; leave them out, or .* target -100"):
        _with_targets(calibrator, Split(Labelled(logits, target), part, "demo"))
    part.target[2] = -100
    assert len(_with_targets(calibrator, Split(part, part, "demo")).test.target) == 299


def test_files_of_other_classes_are_refused(tmp_path):
    for name, classes in (("a", 2), ("b", 3)):
        save_file({"logits": torch.zeros(4, classes), "target": torch.zeros(4)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(
        ValueError, match=r"logits \[4, 2\] and .*b.safetensors \[4, 3\]; give logits of the same classes"
    ):
        file_split(tmp_path / "a.safetensors", tmp_path / "b.safetensors", fit_fraction=0.5, seed=0)


def test_a_checkpoint_is_looked_for_at_the_start(tmp_path):
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(ValueError, match=r"last.ckpt is no checkpoint of a run.*has best.ckpt"):
        check_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="there is no folder"):
        check_checkpoint(tmp_path / "run" / "last.ckpt")


def test_one_source_must_be_given(tmp_path):
    for overrides in ([], ["logits=a.npz", "checkpoint=b.ckpt"]):
        with pytest.raises(ValueError, match="give one of logits"):
            calibrated(tmp_path, *overrides)


def test_one_resample_is_refused_before_anything_is_fitted():
    (allowed,) = get_type_hints(CalibrateSettings, include_extras=True)["resamples"].__metadata__
    assert [allowed.holds(number) for number in (1, 2)] == [False, True]


def test_a_split_that_leaves_nothing_is_refused(tmp_path, labelled):
    path = written(tmp_path, "npz", labelled[0][:2], labelled[1][:2])
    with pytest.raises(ValueError, match="leaves none"):
        calibrated(tmp_path, f"logits={path}", "fit_fraction=0.1")


def test_a_checkpoint_of_the_train_recipe_is_calibrated(tmp_path, run):
    report = run()
    checkpoint = run.folder / "checkpoints" / "student" / "last.ckpt"
    found = calibrated(tmp_path / "calibrated", f"checkpoint={checkpoint}", "calibrator=temperature")
    # The train recipe fits the same temperature on the same data.
    assert float(found.calibrator.temperature) == pytest.approx(report.evaluations[-1].temperature, rel=1e-4)
    torch.testing.assert_close(found.split.test.logits, report.evaluations[-1].logits)


def test_a_checkpoints_views_are_predicted_for_the_calibrator_that_takes_them(tmp_path, run):
    report = run()
    checkpoint = run.folder / "checkpoints" / "student" / "last.ckpt"
    found = calibrated(
        tmp_path / "calibrated", f"checkpoint={checkpoint}", "calibrator=correctness_aware", "calibrator.views=[blur]"
    )
    assert found.split.test.logits.shape[1] == 2
    torch.testing.assert_close(found.split.test.logits[:, 0], report.evaluations[-1].logits)
    assert found.after.values["accuracy"] == found.before.values["accuracy"]
    assert Calibrator.load(tmp_path / "calibrated" / "calibrator.safetensors").views == ("blur",)


def test_logits_of_views_come_from_a_file(tmp_path, labelled):
    logits = labelled[0]
    view = torch.where(torch.rand(300, 1) < 0.5, logits, logits.flip(-1))
    path = written(tmp_path, "npz", torch.stack([logits, view], dim=1), labelled[1])
    choice = ["calibrator=correctness_aware", "calibrator.views=[rotate]", f"logits={path}"]
    found = calibrated(tmp_path / "run", *choice)
    assert found.after.values["nll"] < found.before.values["nll"]
    with pytest.raises(ValueError, match=r"give \[N, 3, C\]"):
        calibrated(tmp_path / "other", *choice, "calibrator.views=[rotate,blur]")
    with pytest.raises(ValueError, match="shape"):
        calibrated(tmp_path / "plain", f"logits={path}")


def test_settings_that_build_something_else_are_refused(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"")
    (tmp_path / "identity.json").write_text(json.dumps({"data": {"_target_": "os.system"}, "module": {"network": {}}}))
    with pytest.raises(ValueError, match=r"data\._target_=os\.system: a configuration may not build this"):
        checkpoint_split(tmp_path / "last.ckpt")


def test_a_checkpoint_without_settings_is_refused(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint of a run"):
        checkpoint_split(tmp_path / "last.ckpt")
