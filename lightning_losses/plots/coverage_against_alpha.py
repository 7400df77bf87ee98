"""The coverage and the size of conformal sets, for every share that may be missed."""

import math
from collections.abc import Mapping, Sequence

from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from lightning_losses.calibrators import ConformalSets, conformal_rank
from lightning_losses.metrics import set_coverage, set_size
from lightning_losses.plots.style import draw_line, new_figure, paper_style

ALPHAS = tuple(step / 50 for step in range(1, 26))


def coverage_against_alpha(
    methods: Mapping[str, ConformalSets],
    logits: Float[Tensor, "rows classes"],
    target: Int[Tensor, " rows"],
    *,
    alphas: Sequence[float] = ALPHAS,
    title: str | None = None,
) -> Figure:
    """Draw the coverage of sets beside the coverage that was asked for, and the size that it costs.

    The grey range holds 95 % of the fits like the first method's, if its scores are not classwise.

    Args:
        methods: fitted conformal sets, by name.
        logits: [n, C] of rows that the fits didn't see.
        target: [n] class indices.
        alphas: the shares that may be missed.
        title: the title above the figure.

    Returns:
        A figure outside pyplot's registry.

    Raises:
        ValueError: no methods, no alphas, or no rows.

    Example:
        >>> import torch
        >>> from lightning_losses.calibrators import LAC
        >>> logits, target = torch.randn(100, 3), torch.randint(0, 3, (100,))
        >>> figure = coverage_against_alpha({"lac": LAC().fit(logits, target)}, logits, target)
        >>> [axis.get_ylabel() for axis in figure.axes]
        ['coverage, %', 'classes in a set']
    """
    if not methods or not alphas or not len(target):
        raise ValueError(
            f"coverage_against_alpha: {len(methods)} methods, {len(alphas)} alphas and {len(target)} rows came; give "
            "at least one of each."
        )
    alphas = sorted(alphas, reverse=True)
    wanted = [100 * (1 - alpha) for alpha in alphas]
    first = next(iter(methods.values()))
    with paper_style():
        figure, (left, right) = new_figure(columns=2, width=3.0)
        left.plot(wanted, wanted, color="#777777", linewidth=0.8, linestyle="--", label="asked for")
        if not first.classwise:
            ends = [expected_coverage(first.samples, len(target), alpha) for alpha in alphas]
            low, high = ([100 * end[side] for end in ends] for side in (0, 1))
            left.fill_between(wanted, low, high, color="#777777", alpha=0.2, linewidth=0, label="expected")
        for number, (name, method) in enumerate(methods.items()):
            uniforms = method.uniforms_of(len(target))
            sets = [method(logits, alpha, uniforms) for alpha in alphas]
            draw_line(left, wanted, [100 * float(set_coverage(each, target)) for each in sets], name, number)
            draw_line(right, wanted, [float(set_size(each, target)) for each in sets], name, number)
        left.set(xlabel="asked for, %", ylabel="coverage, %")
        right.set(xlabel="asked for, %", ylabel="classes in a set")
        left.set_ylim(top=100.0)
        right.set_ylim(bottom=0.0)
        left.legend(loc="lower right")
        if title:
            figure.suptitle(title)
    return figure


def expected_coverage(samples: int, rows: int, alpha: float) -> tuple[float, float]:
    """The range that holds the coverage of 95 % of the fits of so many samples, each seen on so many test rows.

    The coverage of a fit is Beta(k, n + 1 - k), k being `conformal_rank`; the test rows add their noise.

    Example:
        >>> low, high = expected_coverage(99, 1000, 0.1)
        >>> round(low, 2), round(high, 2)
        (0.84, 0.96)
    """
    mean = conformal_rank(samples, alpha) / (samples + 1)
    spread = mean * (1 - mean) / (samples + 2)
    deviation = math.sqrt(spread + (mean * (1 - mean) - spread) / rows)
    return max(mean - 1.96 * deviation, 0.0), min(mean + 1.96 * deviation, 1.0)
