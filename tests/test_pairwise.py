"""The design that tests of options use."""

import itertools

from tests.pairwise import pairwise

OPTIONS = {"size": [1, 2, 3], "kind": ["a", "b"], "on": [False, True], "scale": [1.0, 10.0, 100.0]}


def test_every_pair_of_values_is_there_in_few_settings():
    settings = pairwise(OPTIONS)
    for one, other in itertools.combinations(OPTIONS, 2):
        pairs = set(itertools.product(OPTIONS[one], OPTIONS[other]))
        assert {(setting[one], setting[other]) for setting in settings} == pairs
    assert 9 <= len(settings) <= 12


def test_what_is_not_allowed_is_left_out_and_nothing_else():
    settings = pairwise(OPTIONS, lambda size, kind, **_: not (size == 2 and kind == "b"))
    pairs = {(setting["size"], setting["kind"]) for setting in settings}
    assert pairs == set(itertools.product([1, 2, 3], "ab")) - {(2, "b")}
