"""Mean ranks on a line, with a bar over those that are not told apart."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from lightning_losses.plots.style import COLORS, new_figure, paper_style


def critical_difference(ranks: Mapping[str, float], difference: float, *, label: str = "mean rank") -> Figure:
    """Draw mean ranks, the best at the left, and bars over groups that differ by less than the critical difference.

    Args:
        ranks: by run, from 1 to their number.
        difference: the critical one, at least 0.
        label: of the axis.

    Returns:
        A figure outside pyplot's registry.

    Raises:
        ValueError: fewer than two runs.

    Source:
        Demšar, 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7.

    Example:
        >>> figure = critical_difference({"ce": 2.8, "ldam": 1.4, "focal": 1.8}, 0.7)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['ldam 1.40', 'focal 1.80', 'ce 2.80', 'CD = 0.70']
    """
    if len(ranks) < 2:
        raise ValueError(f"critical_difference: {len(ranks)} runs came; give two or more.")
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    groups = indistinguishable([rank for _, rank in ordered], difference)
    middle = (len(ordered) + 1) / 2
    left = [run for run in ordered if run[1] <= middle]
    # The outermost on top, so that no line crosses a label.
    right = [run for run in reversed(ordered) if run[1] > middle]
    first = 1.0 + 0.6 * len(groups)
    rows = max(len(left), len(right))
    with paper_style():
        figure, (axis,) = new_figure(width=4.6, height=0.2 * (first + rows) + 0.7)
        for row, (first_place, last_place) in enumerate(groups):
            ends = [ordered[first_place][1] - 0.03, ordered[last_place][1] + 0.03]
            axis.plot(ends, [0.6 * (row + 1)] * 2, color="#444444", linewidth=3, solid_capstyle="butt")
        for side, runs, where in ((-0.06, left, "right"), (0.06, right, "left")):
            for place, (run, rank) in enumerate(runs):
                depth = first + place
                axis.plot([rank, rank, rank + side], [0, depth, depth], color=COLORS[0], linewidth=0.9)
                axis.text(rank + 1.3 * side, depth, f"{run} {rank:.2f}", ha=where, va="center", fontsize=8)
        axis.plot([1, 1 + difference], [-0.7, -0.7], color="#000000", linewidth=1.2)
        axis.text(1.06 + difference, -0.7, f"CD = {difference:.2f}", ha="left", va="center", fontsize=8)
        # Room for the labels of runs at either end.
        axis.set_xlim(1 - 0.45 * len(ordered), len(ordered) + 0.45 * len(ordered))
        axis.set_ylim(first + rows - 0.4, -1.2)
        axis.set_xticks(range(1, len(ordered) + 1))
        axis.xaxis.tick_top()
        axis.xaxis.set_label_position("top")
        axis.set_xlabel(label)
        axis.set_yticks([])
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.plot([1, len(ordered)], [-1.2, -1.2], color="#000000", linewidth=1.2)
    return figure


def indistinguishable(ranks: list[float], difference: float) -> list[tuple[int, int]]:
    """The first and the last place of every largest group of ascending ranks that differ by less than this.

    Example:
        >>> indistinguishable([1.0, 1.5, 2.2, 4.0], 1.0)
        [(0, 1), (1, 2)]
    """
    groups: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(place for place, other in enumerate(ranks) if other - rank < difference or place == first)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups
