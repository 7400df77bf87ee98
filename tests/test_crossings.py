"""The design that tests of options use."""

import itertools

from tests.crossings import crossings

OPTIONS = {"size": [1, 2, 3], "kind": ["a", "b"], "on": [False, True], "scale": [1.0, 10.0, 100.0]}


def test_every_pair_of_values_is_there_in_few_settings():
    settings = crossings(OPTIONS)
    for one, other in itertools.combinations(OPTIONS, 2):
        pairs = set(itertools.product(OPTIONS[one], OPTIONS[other]))
        assert {(setting[one], setting[other]) for setting in settings} == pairs
    assert 9 <= len(settings) <= 12


def test_every_three_values_of_three_options_are_there():
    settings = crossings(OPTIONS, strength=3)
    for names in itertools.combinations(OPTIONS, 3):
        triples = set(itertools.product(*(OPTIONS[name] for name in names)))
        assert {tuple(setting[name] for name in names) for setting in settings} == triples
    assert 18 <= len(settings) < 36


def test_what_is_not_allowed_is_left_out_and_nothing_else():
    settings = crossings(OPTIONS, lambda size, kind, **_: not (size == 2 and kind == "b"))
    pairs = {(setting["size"], setting["kind"]) for setting in settings}
    assert pairs == set(itertools.product([1, 2, 3], "ab")) - {(2, "b")}
