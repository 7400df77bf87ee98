"""The pictures of benchmarks hide no point, cut nothing off, and have text that is large enough on a page."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from matplotlib.text import Text

from lightning_losses.plots.style import COLORS

FOLDER = Path(__file__).parents[2] / "benchmarks"

SIZES = [2**power for power in range(12, 18)]
CONTRASTS = ["NT-Xent", "CLIP", "InfoNCE"]


def benchmark(name: str) -> ModuleType:
    """A benchmark, which finds the module beside it as it does when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FOLDER), *sys.path])
        return import_module(name)


def z_loss():
    results = {v: {"logits": v / 20, "cross-entropy": v / 50, "step": v / 140, "tokens": 7.0} for v in SIZES}
    benchmark("spherical_z_loss").plot(Path("time.png"), results, 1024, 256)


def margins():
    module = benchmark("margin_losses")
    values = {name: 100.0 * (place + 1) for place, name in enumerate(module.VARIANTS)}
    module.plot(Path("margins.png"), {c: {"ms": values, "MB": values} for c in SIZES}, 512, 256)


def policies():
    distances = {name: [0.4, 0.2, 0.1] for name in ("INPO", "IPO", "DPO")}
    module = benchmark("exact_policies")
    module.plot(Path("policies.png"), module.Game(distances, 0.0))


def contrasts():
    module = benchmark("similarities")
    names = [*CONTRASTS, *(f"matrix: {name}" for name in CONTRASTS), module.METRIC_LEARNING, module.LIGHTLY]
    rows = [
        {"pairs": pairs, "variant": name, "ms": pairs * (place + 1.0), "MB": pairs / (place + 1)}
        for pairs in (256, 1024, 4096, 8192, 16384)
        for place, name in enumerate(names)
    ]
    module.draw(rows, Path("similarities.png"))


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    monkeypatch.setattr("lightning_losses.plots.style.save_figure", lambda figure, path: figures.append(figure))
    return figures


@pytest.mark.parametrize("draw", [z_loss, margins, policies, contrasts])
def test_the_legend_hides_no_point_and_all_text_is_legible(draw, drawn):
    draw()
    (figure,) = drawn
    figure.draw_without_rendering()
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    boxes = [legend.get_window_extent() for legend in legends]
    assert boxes
    points = [
        point for axis in figure.axes for line in axis.lines for point in axis.transData.transform(line.get_xydata())
    ]
    assert not any(box.contains(*point) for box in boxes for point in points)
    for text in (text for text in figure.findobj(Text) if text.get_text()):
        # Shrunk to a page's column of 7 inches.
        assert text.get_fontsize() * min(1, 7 / figure.get_figwidth()) >= 7
    for axis in figure.axes:
        for label in filter(Text.get_text, (axis.xaxis.label, axis.yaxis.label, axis.title)):
            box = label.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    assert figure.axes[0].lines[0].get_color() == COLORS[0]


def test_a_probability_of_nearly_nothing_is_drawn_whole(drawn):
    policies()
    assert not any(line.get_clip_on() for line in drawn[0].axes[0].lines)


def test_a_package_that_is_not_installed_is_not_in_the_legend(drawn):
    rows = [{"pairs": pairs, "variant": "NT-Xent", "ms": 1.0, "MB": 1.0} for pairs in (256, 1024)]
    benchmark("similarities").draw(rows, Path("similarities.png"))
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["NT-Xent"]


def test_time_over_tokens_and_vocabulary_has_a_legend_beside_its_lines(drawn, monkeypatch):
    module = benchmark("linear_cross_entropy")
    monkeypatch.setattr(module, "interleave", lambda steps, *_: {name: [0.01, 0.02] for name in steps})
    monkeypatch.setattr(module, "data", lambda *_: ())
    module.plot(Path("cost.png"), 1)
    (figure,) = drawn
    assert len(figure.axes) == 2 and len(figure.legends) == 1
    assert all(axis.get_legend() is None for axis in figure.axes)
