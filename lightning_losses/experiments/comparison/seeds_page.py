"""The page of an experiment that measures several runs over seeds, and judges claims about them by itself."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lightning_losses.experiments.comparison.judged_claims import judged_claims
from lightning_losses.experiments.comparison.shown_numbers import shown, spread
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.evidence.seed_interval import SeedInterval, seed_interval
from lightning_losses.experiments.page import Page, Table
from lightning_losses.plots.seed_intervals import seed_intervals


def seeds_page(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    claims: tuple[Sequence[Claim], Mapping[str, float]],
    *,
    title: str,
    command: str,
    settings: dict[str, Any],
    heading: str,
    note: str,
    picture: str,
    seconds: float,
    labels: Mapping[str, str] | None = None,
    training_seconds: Mapping[str, Sequence[float]] | None = None,
    stage: str = "test",
    draw: Callable[[], Figure] | None = None,
) -> Page:
    """A table of means with intervals, a line a run; what it shows of the claims; and a picture.

    Args:
        values: by run and metric, a number a seed.
        claims: with the margins of their metrics, as `claims_of` reads them.
        title: one line.
        command: what starts the run again.
        settings: the whole configuration.
        heading: of the column of runs.
        note: what the numbers are of.
        picture: the name of its file, without the ending.
        seconds: of the whole experiment.
        labels: of runs that the table names otherwise.
        training_seconds: by run, a number a seed, for a column of their means; None: there is none.
        stage: what the picture says beside a run's interval.
        draw: makes another picture; None: a panel for each metric of test data.
    """
    labels = labels or {}
    judged = judged_claims(claims[0], values, claims[1])
    metrics = list(next(iter(values.values())))
    heads = [heading, *(shown(metric).name for metric in metrics)]
    rows = [
        [labels.get(run, run), *(spread(seed_interval(numbers[metric]), metric) for metric in metrics)]
        for run, numbers in values.items()
    ]
    if training_seconds is not None:
        heads.append("seconds")
        for row, own in zip(rows, (training_seconds[run] for run in values), strict=True):
            row.append(f"{sum(own) / len(own):.1f}")
    panels = {
        # Names of five panels in a row would run into one another.
        textwrap.fill(shown(metric).name, 24): {
            labels.get(run, run): [
                SeedInterval(*(shown(metric).factor * end for end in seed_interval(numbers[metric])))
            ]
            for run, numbers in values.items()
        }
        for metric in metrics
        # Validation data say how settings were chosen.
        if not metric.startswith("val_")
    }
    times = {} if training_seconds is None else {"training_seconds": training_seconds}
    return Page(
        title=title,
        command=command,
        body=[
            Table(heads, rows),
            note,
            "\n".join(one.markdown() for one in judged),
            f"![{picture}]({picture}.png)",
        ],
        said=[note, *map(str, judged)],
        numbers={"seconds": seconds, "values": values, **times, "claims": [one.plain() for one in judged]},
        settings=settings,
        figures={f"{picture}.png": draw or (lambda: seed_intervals(panels, stages=[stage]))},
    )
