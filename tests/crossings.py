"""Few settings that hold every pair of values of any two options, or every three of any three."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Places = dict[str, int]
TRIES, CANDIDATES = 200, 10


def crossings(
    options: Mapping[str, Sequence[Any]], allowed: Callable[..., bool] = lambda **_: True, strength: int = 2
) -> list[dict[str, Any]]:
    """A greedy design, the same each time: of random settings with a crossing that is missing, that with most of them.

    Args:
        options: the values of each option.
        allowed: takes a whole setting by name; a crossing that no setting holds with its consent is left out.
        strength: how many options are crossed.
    """
    rng = random.Random(0)
    sizes = {name: len(values) for name, values in options.items()}
    # In order, which a set of names would not have in another process.
    missing = dict.fromkeys(
        tuple(zip(names, numbers, strict=True))
        for names in itertools.combinations(options, strength)
        for numbers in itertools.product(*(range(sizes[name]) for name in names))
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
        place, setting = max(fitting, key=lambda pair: sum(each in missing for each in _crossed(pair[0], strength)))
        for each in _crossed(place, strength):
            missing.pop(each, None)
        chosen.append(setting)
    return chosen


def _values(options: Mapping[str, Sequence[Any]], place: Places) -> dict[str, Any]:
    return {name: options[name][number] for name, number in place.items()}


def _crossed(place: Places, strength: int) -> list[tuple[tuple[str, int], ...]]:
    return list(itertools.combinations(place.items(), strength))
