import json
import math

import pytest
import torch
from torch import nn

from lightning_losses.calibrators import TemperatureScaling
from lightning_losses.data import Digits
from lightning_losses.experiments.training.evaluation import Scores, evaluate, predict_logits
from lightning_losses.experiments.training.report import COLUMNS, Report
from lightning_losses.experiments.training.training import Trained
from lightning_losses.plots.curves import loss_curves, validation_curves

HISTORY = {
    "train/loss": [2.0, math.nan],
    "train/loss/ce": [1.5, 0.7],
    "train/loss/kd": [0.5, 0.3],
    "val/loss": [1.0, 0.5],
    "val/accuracy": [0.5, 0.75],
    "val/ece": [0.1, 0.2],
}


@pytest.fixture(scope="module")
def data():
    data = Digits()
    data.setup()
    return data


@pytest.fixture(scope="module")
def evaluations(data):
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2)]
    # The least-squares fit of the labels: right most of the time, and far from certain; the baseline sees it blurred.
    inputs, labels = data.train.inputs.flatten(1), nn.functional.one_hot(data.train.target, 10).float()
    fit = torch.linalg.lstsq(inputs, labels, driver="gelsd").solution.T
    with torch.no_grad():
        networks[0][1].weight.copy_(fit + 0.02 * torch.randn_like(fit))
        networks[1][1].weight.copy_(fit)
    return [
        evaluate(Trained(name, f"{name} (ce)", network, HISTORY, seconds), data)
        for name, network, seconds in zip(("baseline", "student"), networks, (1.0, 2.5), strict=True)
    ]


def test_scores_are_the_textbooks():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([0, 0, 0])
    p = torch.softmax(logits, dim=-1)[:, 0].double()
    scores = Scores.of(logits, target)
    assert scores.accuracy == pytest.approx(2 / 3)
    # Float32 softmax.
    assert scores.nll == pytest.approx(-p.log().mean().item(), rel=1e-6)
    assert scores.brier == pytest.approx((2 * (1 - p) ** 2).mean().item(), rel=1e-6)
    # Three samples in three bins: each adds its own gap.
    assert scores.ece == pytest.approx(((1 - p[0]) + 0.5 + (1 - p[2])).item() / 3, rel=1e-6)


def test_the_temperature_is_fitted_on_validation_and_applied_to_test(data, evaluations):
    student = evaluations[1]
    network = student.trained.network
    fitted = TemperatureScaling().fit(predict_logits(network, data.val), data.val.target)
    assert student.temperature == fitted.temperature.item()
    assert torch.equal(student.logits, network(data.test.inputs).detach())
    assert student.after == Scores.of(student.logits / student.temperature, data.test.target)
    assert student.before.accuracy == student.after.accuracy > 0.8
    assert student.after.nll < student.before.nll and student.after.ece < student.before.ece


def test_a_report_is_written_whole(tmp_path, evaluations, capsys):
    report = Report("a title", "python recipes/train.py seed=1", evaluations, {"seed": 1}, 12.0)
    page = report.page()
    pictures = page.write(tmp_path / "report")
    names = ["validation.png", "losses.png", "reliability_baseline.png", "reliability_student.png"]
    assert [path.name for path in pictures] == names
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted([*names, "report.json", "report.md"])
    for path in pictures:
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    content = json.loads(
        (tmp_path / "report" / "report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON")
    )
    assert content["settings"] == {"seed": 1} and content["test_samples"] == 359
    # What diverged is null, and stays visible as such.
    assert content["networks"][0]["history"]["train/loss"] == [2.0, None]
    assert content["networks"][1]["before"]["accuracy"] == evaluations[1].before.accuracy
    text = (tmp_path / "report" / "report.md").read_text()
    page.show()
    shown = capsys.readouterr().out
    for row in [COLUMNS, *report.rows()]:
        assert "| " + " | ".join(row) + " |" in text
        assert all(cell in shown for cell in row), "a cell of the printed table is cut off"
    assert all(name in text for name in names)


def test_loss_curves_show_every_part_in_one_colour(evaluations):
    peer = {**HISTORY, "train/loss": [2.0, 1.0], "train/peer_loss": [1.0, 0.9], "train/peer_loss/ce": [1.0, 0.9]}
    alone = {"train/loss": [1.0, 0.5], "train/loss/ce": [1.0, 0.5]}
    figure = loss_curves({"student": peer, "baseline": alone})
    lines = [{line.get_label(): line for line in axis.get_lines()} for axis in figure.axes]
    assert set(lines[0]) == {"ce", "kd", "weighted sum", "peer: ce"} and set(lines[1]) == {"ce"}
    assert list(lines[0]["weighted sum"].get_ydata()) == [2.0, 1.0]
    assert list(lines[1]["ce"].get_xdata()) == [1, 2]
    assert lines[0]["ce"].get_color() == lines[1]["ce"].get_color() != lines[0]["kd"].get_color()


def test_losses_of_zero_and_below_are_drawn_on_a_linear_scale():
    (axis,) = loss_curves({"student": {"train/loss": [0.5, -0.5], "train/loss/penalty": [0.5, -0.5]}}).axes
    assert axis.get_yscale() == "linear"


def test_validation_curves_are_in_per_cent_and_nats():
    accuracy, loss = validation_curves({"student": HISTORY}).axes
    assert list(accuracy.get_lines()[0].get_ydata()) == [50.0, 75.0]
    assert list(loss.get_lines()[0].get_ydata()) == [1.0, 0.5]
    assert accuracy.get_ylabel().endswith("(%)") and loss.get_ylabel().endswith("(nats)")
