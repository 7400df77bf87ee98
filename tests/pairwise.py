"""Few settings that hold every pair of values of any two options: where crossings of options go wrong, two suffice."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Places = dict[str, int]
TRIES, CANDIDATES = 200, 20


def pairwise(
    options: Mapping[str, Sequence[Any]], allowed: Callable[..., bool] = lambda **_: True
) -> list[dict[str, Any]]:
    """A greedy design, the same each time: of random settings with a pair that is missing, that with most such pairs.

    Args:
        options: the values of each option.
        allowed: takes a whole setting by name; a pair that no setting holds with its consent is left out.
    """
    rng = random.Random(0)
    sizes = {name: len(values) for name, values in options.items()}
    # In order, which a set of names would not have in another process.
    missing = dict.fromkeys(
        ((one, i), (other, j))
        for one, other in itertools.combinations(options, 2)
        for i, j in itertools.product(range(sizes[one]), range(sizes[other]))
    )
    chosen = []
    while missing:
        first = next(iter(missing))
        tries = ({name: rng.randrange(size) for name, size in sizes.items()} | dict(first) for _ in range(TRIES))
        settings = ((place, _values(options, place)) for place in tries)
        fitting = list(itertools.islice((pair for pair in settings if allowed(**pair[1])), CANDIDATES))
        if not fitting:
            del missing[first]
            continue
        place, setting = max(fitting, key=lambda pair: sum(each in missing for each in _pairs(pair[0])))
        for each in _pairs(place):
            missing.pop(each, None)
        chosen.append(setting)
    return chosen


def _values(options: Mapping[str, Sequence[Any]], place: Places) -> dict[str, Any]:
    return {name: options[name][number] for name, number in place.items()}


def _pairs(place: Places) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    return list(itertools.combinations(place.items(), 2))
