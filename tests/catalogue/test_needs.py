"""What is said to a need names what there is, composes, and quotes numbers that are on the page it names."""

import re
import shlex
from pathlib import Path

import pytest

from lightning_losses.catalogue import command_line as cli
from lightning_losses.catalogue.losses import catalogue
from lightning_losses.catalogue.needs import NEEDS, NOT_MEASURED, choose
from lightning_losses.catalogue.other_losses import wrapped_losses
from lightning_losses.catalogue.parts import parts
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.config.settings import SETTINGS

ROOT = Path(__file__).parents[2]
ANSWERS = [pytest.param(answer, id=f"{need.id}-{answer.method}") for need in NEEDS for answer in need.answers]


@pytest.fixture(scope="module")
def methods():
    known = {name for entry in catalogue() for name in (entry.id, *entry.configs)}
    known |= {path.stem for group in ("objective", "calibrator") for path in (ROOT / "conf" / group).glob("*.yaml")}
    known |= {entry.id for entry in wrapped_losses()} | {part.name for part in parts("kernels")}
    return known | {part.name for kind in ("callbacks", "mixins", "decoding") for part in parts(kind)}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_there_and_its_numbers_are_on_its_page(answer, methods):
    assert answer.method in methods
    words = shlex.split(answer.command)
    if words[0] == "lightning-losses":
        overrides = [word for word in words[2:] if "validation.npz" not in word]
        assert words[1] == "calibrate" or check_overrides(words[1], overrides, SETTINGS[words[1]], multirun=False)
    assert bool(answer.page) is (answer.effect != NOT_MEASURED)
    if answer.page:
        page = (ROOT / "docs" / answer.page).read_text()
        # Whole numbers and percentages of a setting are said in words of the sentence.
        missing = [number for number in re.findall(r"[+-]?\d+\.\d+", answer.effect) if number not in page]
        assert not missing, f"{answer.page} has no {missing}: measured again? Then say in needs.py what it has."


def test_needs_have_other_names_that_are_theirs_alone():
    names = [name for need in NEEDS for name in (need.id.replace("-", " "), *need.words)]
    assert len(set(names)) == len(names)
    assert all(choose(name).id in {need.id for need in NEEDS} for name in names)
    assert all(need.answers or need.missing for need in NEEDS)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 0, "noisy-labels      My labels are noisy"),
        (["noisy-labels"], 0, "command  lightning-losses train experiment=distill objective=self_distill_gt"),
        (["label", "noise"], 0, "Missing: Methods that replace wrong labels"),
        (["nosy"], 2, "did you mean noisy-labels? Give one of teacher, "),
    ],
)
def test_choose_answers_without_a_terminal(monkeypatch, capsys, words, code, said):
    monkeypatch.setattr("sys.argv", ["lightning-losses", "choose", *words])
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    try:
        cli.main()
        ended = 0
    except SystemExit as exit:
        ended = exit.code
    printed = capsys.readouterr()
    assert ended == code and said in printed.out + printed.err


def test_choose_asks_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lightning-losses", "choose"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "3")
    cli.main()
    assert "My labels are noisy\n\ngce: " in capsys.readouterr().out
