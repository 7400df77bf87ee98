"""What is said to a need names what there is, composes, and quotes numbers that are on the page it names."""

import json
import re
import shlex
from pathlib import Path
from unittest import mock

import pytest
from omegaconf import OmegaConf

from lightning_losses.catalogue import command_line as cli
from lightning_losses.catalogue.losses import catalogue
from lightning_losses.catalogue.needs import NEEDS, NOT_MEASURED, choose
from lightning_losses.catalogue.other_losses import wrapped_losses
from lightning_losses.catalogue.parts import parts
from lightning_losses.experiments.comparison.comparison_plan import last_words, plan
from lightning_losses.experiments.config.check_overrides import check_overrides, shown_config
from lightning_losses.experiments.config.settings import SETTINGS

ROOT = Path(__file__).parents[2]
ANSWERS = [pytest.param(answer, id=f"{need.id}-{answer.method}") for need in NEEDS for answer in need.answers]
# Pages with numbers of comparisons, beside the pages that comparisons write: in which comparison they were measured.
COMPARISON_OF = {"distillation.md": "bed_a", "calibration.md": "bed_a_calibration"}


def comparison(answer):
    """The name of the comparison that measured the effect of an answer's command; "" if none did."""
    own = answer.page.removesuffix(".md").removeprefix("results/") if answer.page.startswith("results/") else ""
    name = COMPARISON_OF.get(answer.page, own)
    compared = (ROOT / "conf" / "comparison" / f"{name}.yaml").is_file()
    return name if compared and answer.command.startswith("lightning-losses train ") else ""


COMPARED = [parameter for parameter in ANSWERS if comparison(parameter.values[0])]


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


def trained(words):
    """Every setting of a training by its dotted name. How often it is validated changes nothing that is learned."""
    config = OmegaConf.to_container(shown_config("train", words))
    for trainer in (config["trainer"], config["teacher_trainer"]):
        trainer.pop("check_val_every_n_epoch", None)
    return dict(dotted("", {key: value for key, value in config.items() if key != "logger"}))


def dotted(name, value):
    if not isinstance(value, dict) or not value:
        return [(name, value)]
    return [pair for key, inner in value.items() for pair in dotted(f"{name}.{key}".lstrip("."), inner)]


def measured(answer):
    """The runs that have the effect's first number in their row, or whose setting it names, as they were tuned."""
    name = comparison(answer)
    planned = plan(shown_config("compare", [f"comparison={name}"]), [])
    numbers = json.loads((ROOT / "docs" / "results" / "numbers" / f"{name}.json").read_text())
    lines = [
        line.replace("`", "")
        for page in (answer.page, f"results/{name}.md")
        for line in (ROOT / "docs" / page).read_text().splitlines()
    ]
    number = re.findall(r"[+-]?\d+\.\d+", answer.effect)[0]
    objective = next(iter(re.findall(r" (objective=\w+)", answer.command)), f"objective={answer.method}")
    for one in planned.first(1).planned:
        row = any(line.startswith(f"| {one.run} |") and number in line for line in lines)
        # With other words between: "40 % of the labels wrong" names the setting "40 % wrong".
        named = r"(?<!\w)" + r"\s(?:[\w ]*\s)?".join(map(re.escape, one.setting.split()))
        said = re.search(named, answer.effect) if one.setting else row
        if said and objective in one.words:
            tuned = numbers["tuned"][one.setting][one.run]
            words = [*one.words, f"optimizer.lr={tuned['learning_rate']:g}"]
            if tuned["parameter"]:
                (key,) = numbers["config"]["tuning"]["parameters"][one.run]
                words += [f"{key}={tuned['parameter'].partition('=')[2]}"]
            yield one.setting, one.run, last_words(words)


@pytest.mark.slow
@pytest.mark.parametrize("answer", COMPARED)
def test_a_command_trains_what_its_effect_was_measured_on(answer):
    own, differences = trained(shlex.split(answer.command)[2:]), {}
    for setting, run, words in measured(answer):
        other = trained(words)
        differences[setting, run] = {
            key: (own.get(key, "nothing"), other.get(key, "nothing"))
            for key in own | other
            if own.get(key, "nothing") != other.get(key, "nothing")
        }
    assert differences, f"no run of {comparison(answer)} has the first number of the effect"
    # By the run: what the command gives and what was measured.
    assert {} in differences.values(), differences


def test_needs_have_other_names_that_are_theirs_alone():
    names = [name for need in NEEDS for name in (need.id.replace("-", " "), *need.words)]
    assert len(set(names)) == len(names)
    assert all(choose(name).id in {need.id for need in NEEDS} for name in names)
    assert all(need.answers or need.missing for need in NEEDS)


@pytest.mark.parametrize(
    ("method", "need"), [("GCE", "noisy-labels"), ("trades", "attacks"), ("temperature", "probabilities")]
)
def test_a_method_names_the_need_that_it_answers(method, need):
    assert choose(method).id == need


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 0, "noisy-labels      My labels are noisy"),
        (["noisy-labels"], 0, "command  lightning-losses train experiment=distill objective=self_distill_gt"),
        (["label", "noise"], 0, "Missing: Methods that replace wrong labels"),
        (["zzz"], 2, "choose: 'zzz' came; give one of teacher, "),
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


@pytest.mark.parametrize("stop", [EOFError, KeyboardInterrupt])
def test_choose_ends_where_no_answer_is_given(monkeypatch, capsys, stop):
    monkeypatch.setattr("sys.argv", ["lightning-losses", "choose"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", mock.Mock(side_effect=stop))
    with pytest.raises(SystemExit, match="130"):
        cli.main()
    assert capsys.readouterr().err == ""
