"""Gradient conflict between the terms of an objective, over steps."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lightning_losses.plots.style import draw_line, new_figure, paper_style

_LABELS = {"cosine": "cosine of two gradients", "length": "length of a gradient", "weight": "weight by the policy"}


def conflict_panels(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Panels of the cosines between terms' gradients, of their lengths, and of their weights.

    Below the dashed line two terms conflict. A panel without curves is left out.

    Args:
        curves: (steps, values) by ``cosine/<term>/<term>``, ``length/<term>`` and ``weight/<term>``.
    """
    panels = {
        kind: {name.partition("/")[2]: curve for name, curve in curves.items() if name.startswith(f"{kind}/")}
        for kind in _LABELS
    }
    panels = {kind: members for kind, members in panels.items() if members}
    with paper_style():
        figure, axes = new_figure(len(panels), width=2.9, height=2.4)
        for axis, (kind, members) in zip(axes, panels.items(), strict=True):
            for order, (name, (steps, values)) in enumerate(members.items()):
                draw_line(axis, steps, values, name.replace("/", " · "), order)
            axis.set_xlabel("optimizer step")
            axis.set_ylabel(_LABELS[kind])
            axis.legend()
            if kind == "cosine":
                axis.set_ylim(-1.05, 1.05)
                axis.axhline(0, color="#777777", linestyle="--", linewidth=0.9)
            elif kind == "length" and all(value > 0 for _, values in members.values() for value in values):
                axis.set_yscale("log")
    return figure
