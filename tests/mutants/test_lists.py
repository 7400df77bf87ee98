"""The lists of mistakes fit the package and the tests, so that python -m tests.mutants can put them in."""

import ast

from tests.mutants.lists import MISTAKES
from tests.mutants.mistake import ROOT


def test_there_are_enough_of_them_and_each_once():
    assert len({(mistake.file, mistake.right, mistake.wrong) for mistake in MISTAKES}) == len(MISTAKES) >= 120


def test_every_mistake_still_applies():
    for mistake in MISTAKES:
        text = (ROOT / "lightning_losses" / mistake.file).read_text()
        # Python still reads it: what is noticed is the mistake, not a file that can't be imported.
        ast.parse(mistake.put_into(text))


def test_the_tests_that_notice_them_are_there():
    for mistake in MISTAKES:
        for path in mistake.tests.partition(" -k ")[0].split():
            assert (ROOT / path.partition("::")[0]).is_file(), path
