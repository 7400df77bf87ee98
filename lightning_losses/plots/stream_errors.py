"""The error of adapting networks along a stream of domains."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from lightning_losses.plots.style import draw_line, new_figure, paper_style


def stream_errors(errors: Mapping[str, Sequence[float]], domains: Sequence[str]) -> Figure:
    """Draw the error under each domain, in the order of the stream, a line a method, on a logarithmic scale.

    Args:
        errors: by the method's label, from 0 to 1; the domains may come several times. Below 1 % is drawn as 1 %.
        domains: their names, in the order of one round.

    Returns:
        A figure outside pyplot's registry.

    Example:
        >>> figure = stream_errors({"tent": [0.2, 0.3, 0.4, 0.6]}, ["fog", "noise"])
        >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
        ['fog', 'noise', 'fog', 'noise']
    """
    with paper_style():
        figure, (axis,) = new_figure(width=7.0, height=3.8)
        places = range(max(map(len, errors.values())))
        for order, (label, values) in enumerate(errors.items()):
            draw_line(axis, places, [max(100 * value, 1.0) for value in values], label, order)
        for begin in range(len(domains), len(places), len(domains)):
            axis.axvline(begin - 0.5, color="#999999", linewidth=0.6)
        axis.set_xticks(
            places, [domains[place % len(domains)] for place in places], rotation=60, ha="right", fontsize=7
        )
        axis.set_ylabel("error (%)")
        # The network that does not adapt is several times as bad as the others, which a linear scale would squeeze.
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50, 100]))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_locator(NullLocator())
        figure.legend(loc="outside upper left", ncols=4)
    return figure
