"""The reliability diagram and the risk-coverage curve show what the metrics say."""

import pytest
import torch

from lightning_losses.metrics import area_under_risk_coverage, expected_calibration_error
from lightning_losses.plots.reliability_diagram import reliability_diagram
from lightning_losses.plots.risk_coverage import risk_coverage
from lightning_losses.plots.style import save_figure


@pytest.fixture
def labelled():
    logits = 2 * torch.randn(400, 5)
    return 2 * logits, torch.multinomial(logits.softmax(-1), 1)[:, 0]


def heights(axes):
    return [patch.get_height() for patch in axes.patches]


def test_bars_are_accuracy_and_the_gap_reaches_confidence(labelled):
    logits, target = labelled
    figure = reliability_diagram(logits, target, inputs="logits", num_bins=10, resamples=10)
    above, below = figure.axes
    confidence, prediction = logits.softmax(-1).max(-1)
    index = (10 * confidence).ceil().long() - 1
    filled = index.unique().tolist()
    correct = (prediction == target).float()
    bars = heights(above)
    for bar, gap, b in zip(bars, bars[len(filled) :], filled, strict=False):
        assert bar == pytest.approx(float(correct[index == b].mean()), abs=1e-6)
        assert bar + gap == pytest.approx(float(confidence[index == b].mean()), abs=1e-6)
    assert heights(below) == torch.bincount(index, minlength=10).tolist()


def test_the_legend_says_the_error_before_and_after(labelled):
    logits, target = labelled
    figure = reliability_diagram(logits, target, inputs="logits", after=logits / 2, resamples=10, names=("raw", "T"))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    for name, values in (("raw", logits), ("T", logits / 2)):
        error = float(expected_calibration_error(values, target, inputs="logits"))
        assert any(text.startswith(f"{name}, ECE {100 * error:.1f} % [") for text in texts)


def test_points_at_an_accuracy_of_1_are_drawn_whole():
    logits, target = torch.tensor([[9.0, 0.0], [0.4, 0.0]]), torch.tensor([0, 0])
    above, _ = reliability_diagram(logits, target, inputs="logits", after=logits / 2, resamples=5).axes
    bars = [container for container in above.containers if not hasattr(container, "patches")]
    artists = [artist for container in bars for artist in container.get_children()]
    assert artists and not any(artist.get_clip_on() for artist in artists)


@pytest.mark.parametrize("options", [{"binning": "mass"}, {"num_bins": 1}, {"title": "a title"}, {"level": 0.5}])
def test_every_option_draws(labelled, options, tmp_path):
    figure = reliability_diagram(*labelled, inputs="logits", resamples=5, **options)
    assert save_figure(figure, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_other_tasks_draw(task):
    shape = (50,) if task == "binary" else (50, 3)
    figure = reliability_diagram(torch.randn(shape), torch.randint(2, shape), inputs="logits", task=task, resamples=5)
    assert figure.axes[0].get_ylabel() == "frequency of 1"


def test_one_sample_and_certain_predictions_draw(tmp_path):
    figure = reliability_diagram(torch.tensor([[1e4, 0.0]]), torch.tensor([0]), inputs="logits")
    assert save_figure(figure, tmp_path / "a.png").stat().st_size > 0
    assert figure.axes[0].has_data()


def test_no_samples_are_refused():
    nothing = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    for draw in (reliability_diagram, risk_coverage):
        with pytest.raises(ValueError, match="no samples"):
            draw(*nothing, inputs="logits")


def test_risk_ends_at_the_error_rate_and_the_best_order_below(labelled):
    logits, target = labelled
    figure = risk_coverage({"a": logits, "b": -logits}, target, inputs="logits", title="t")
    best, first, second = figure.axes[0].lines
    assert first.get_ydata()[-1] == pytest.approx(float((logits.argmax(-1) != target).float().mean()))
    assert (best.get_ydata() <= first.get_ydata() + 1e-12).all()
    area = float(area_under_risk_coverage(logits, target, inputs="logits"))
    assert first.get_label() == f"a, AURC {area:.4f}"
    assert second.get_ydata()[-1] > first.get_ydata()[-1]
