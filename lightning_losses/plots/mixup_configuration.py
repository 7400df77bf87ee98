"""The features of mixed samples in a plane."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lightning_losses.plots.style import COLORS, new_figure, paper_style


def mixup_panels(
    points: Sequence[Sequence[float]],
    corners: Sequence[Sequence[float]],
    classes: Sequence[int],
    steps: Sequence[float],
    values: Mapping[str, Sequence[float]],
) -> Figure:
    """Mixtures of one class and of two classes in one plane, and their distances over steps.

    Args:
        points: one row per mixture: two coordinates, the positions of the two classes among the three, the first one's
            share.
        corners: the two coordinates of each class's mean without mixing.
        classes: the three class indices.
        steps: the steps of the measurements.
        values: "same" and "different" at the steps.
    """
    with paper_style():
        figure, (one, two, over_steps) = new_figure(3, width=2.8, height=2.5)
        for number, index in enumerate(classes):
            same = [point for point in points if point[2] == point[3] == number]
            one.scatter([p[0] for p in same], [p[1] for p in same], s=8, alpha=0.6, linewidths=0,
                        color=COLORS[number], label=f"class {index}")  # fmt: skip
        mixed = [point for point in points if point[2] != point[3]]
        # Equal shares are darkest; near either end a mixture is almost of one class.
        shares = [min(point[4], 1 - point[4]) for point in mixed]
        shown = two.scatter([p[0] for p in mixed], [p[1] for p in mixed], c=shares, cmap="viridis_r", s=8, linewidths=0)
        figure.colorbar(shown, ax=two, label="share of the lesser class")
        for axis, title in ((one, "mixed within a class"), (two, "mixed across classes")):
            axis.scatter([c[0] for c in corners], [c[1] for c in corners], marker="*", s=70, color="black", zorder=3)
            axis.set_title(title)
            axis.set_xticks([])
            axis.set_yticks([])
        two.sharex(one)
        two.sharey(one)
        one.autoscale()
        one.legend(loc="best", fontsize=7)
        for order, name in enumerate(("same", "different")):
            over_steps.plot(steps, values[name], color=COLORS[order], linestyle="-" if order == 0 else "--", label=name)
        if min(min(values[name]) for name in ("same", "different")) > 0:
            over_steps.set_yscale("log")
        over_steps.set_xlabel("optimizer step")
        over_steps.set_ylabel("distance² / spread of classes")
        over_steps.legend(loc="best", fontsize=7)
    return figure
