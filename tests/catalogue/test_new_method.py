"""What `lightning-losses new` writes keeps what every method must keep, and says what is left to do."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_losses.catalogue import command_line as cli
from lightning_losses.catalogue.new_method import FILL_IN, new_method
from lightning_losses.losses import kinds
from tests.test_exports import complaints

ROOT = Path(__file__).parents[2]


TESTS = [
    "tests/losses/test_every_loss.py",
    "tests/losses/test_denominator.py",
    "tests/catalogue/test_catalogue.py",
    "tests/test_exports.py",
    "tests/test_doctests.py",
]
USER = """
from lightning_losses import FooKD
from lightning_losses.losses import {bar}

FooKD(temperature=2.0, reduction="sum")
FooKD(temprature=2.0)
{bar}(scale="a")
"""


# Beside the other tests, which have imported all that it needs.
LISTED = """
from lightning_losses.catalogue.losses import catalogue


def test_foo_kd_is_listed():
    (entry,) = (entry for entry in catalogue() if entry.id == "foo_kd")
    assert (entry.name, entry.family, list(entry.configs)) == ("FooKD", "distillation/logits", ["foo_kd"])
"""


@pytest.fixture
def checkout(tmp_path):
    """The parts of a checkout that a new method touches or is tested by."""
    checkout = tmp_path / "checkout"
    for name in ("lightning_losses", "conf", "recipes", "docs", "tests"):
        # With its compiled modules, which are valid for a copy of the same age.
        without = ("*.npz", "images", *(("callbacks", "experiments", "recipes") * (name == "tests")))
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns(*without))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, checkout)
    # Before the installed project's own.
    for name in ("conf", "recipes"):
        (checkout / "lightning_losses" / name).symlink_to(checkout / name)
    return checkout


def run(*command, folder):
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def contents(folder):
    paths = [path for path in folder.rglob("*") if path.suffix in (".py", ".md", ".yaml", ".toml")]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


@pytest.mark.slow
def test_a_new_method_needs_the_command_alone(checkout, monkeypatch, capsys, tmp_path, request):
    before = contents(checkout)
    monkeypatch.chdir(checkout)
    bar = "bar_" + 26 * "r"
    for family, identifier in (("distillation/logits", "foo_kd"), ("classification", bar)):
        monkeypatch.setattr(sys, "argv", ["lightning-losses", "new", family, identifier])
        cli.main()
    printed = [Path(path).relative_to(checkout) for path in capsys.readouterr().out.split()]
    after = contents(checkout)
    exports = {"lightning_losses/__init__.py", "lightning_losses/losses/__init__.py"}
    assert {name for name in after if after[name] != before.get(name)} == {*map(str, printed), *exports}
    assert all(FILL_IN in after[str(path)] for path in printed if not path.name.startswith("test_"))
    losses = [
        "lightning_losses/losses/distillation/logits/foo_kd.py",
        f"lightning_losses/losses/classification/{bar}.py",
    ]
    assert all(after[loss].count("\n") <= 60 for loss in losses)

    style = [name for name in after if name.endswith(".py") and after[name] != before.get(name)]
    for command in (["ruff", "check", *style], ["ruff", "format", "--check", *style]):
        checked = run(*command, folder=checkout)
        assert checked.returncode == 0, checked.stdout

    # What every loss must pass, and its own tests: they ask for what is left to fill in, and for nothing else.
    (checkout / "tests" / "test_listed.py").write_text(LISTED)
    own = ["tests/test_listed.py", *(str(path) for path in printed if path.name.startswith("test_"))]
    chosen = ["-k", "foo_kd or bar_ or exported or offers"]
    # Warnings are treated as in this run, whose command line may have relaxed them.
    warned = [f"-W{one}" for one in request.config.option.pythonwarnings or ()]
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", *warned]
    result = run("pytest", *options, *chosen, *TESTS, *own, folder=checkout).stdout
    failures = [line for line in result.splitlines() if line.startswith("FAILED")]
    assert len(failures) == 2 and all("::test_nothing_is_left_to_fill_in" in line for line in failures), result
    assert int(result.rpartition("2 failed, ")[2].split()[0]) > 100
    assert f"is not done in ['{losses[0]}', 'conf/objective/foo_kd.yaml', 'docs/distillation.md']" in result

    complaint = complaints(USER.format(bar="Bar" + "R" + 25 * "r"), checkout, tmp_path)
    assert complaint.keys() == {"6", "7"}, complaint
    assert 'Unexpected keyword argument "temprature" for "FooKD"' in complaint["6"]
    assert '"scale" to "BarRrr' in complaint["7"]

    # The second time both are there.
    with pytest.raises(ValueError, match="^new: the name 'foo_kd' came, and there is .* already; choose another"):
        new_method("distillation/divergences", "foo_kd", checkout)


def test_the_page_says_what_every_kind_is_fed_and_writes():
    page = (ROOT / "docs" / "add_a_method.md").read_text()
    declared = [kind for kind in vars(kinds).values() if inspect.isabstract(kind) and kind.__module__ == kinds.__name__]
    assert len(declared) > 3
    for kind in declared:
        fed = ", ".join(f"`{name}`" for name, needed in kind.inputs().items() if needed)
        (method,) = kind.__abstractmethods__
        assert f"| `{kind.__name__}` | {fed} | `{method}`" in page


def test_a_family_without_a_page_is_refused(tmp_path):
    (tmp_path / "tests" / "losses").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    family = tmp_path / "lightning_losses" / "losses" / "foo"
    family.mkdir(parents=True)
    (family / "__init__.py").write_text("")
    (family.parent / "__init__.py").write_text("")
    with pytest.raises(ValueError, match="^new: no page in .*docs has the line <!-- `lightning-losses new foo` puts"):
        new_method("foo", "foo_kd", tmp_path)


@pytest.mark.parametrize(
    "name", ["FooKD", "foo-kd", "1foo", "foo__kd", "class", "true", "none", "", "foo kd", "../foo", "foo_", 31 * "f"]
)
def test_a_bad_identifier_is_refused(name):
    with pytest.raises(
        ValueError,
        match="^new: the name .* came; give a snake_case identifier of up to 30 characters, such as foo_kd.$",
    ):
        new_method("distillation/logits", name, ROOT)


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("distillation/logits", "nkd", "new: the name 'nkd' came, and there is .*nkd.yaml already; choose another."),
        ("classification", "nkd", "new: the name 'nkd' came, and there is .* already; choose another."),
        ("distillation/logits", "mutual_learning", "new: .* there is .*mutual_learning.yaml already; choose another."),
        ("classification", "objective", "new: .* the library has Objective already; choose another."),
        ("classification", "tensor", "new: the name 'tensor' came, and every loss imports Tensor; choose another."),
        ("classification", "cross_entropy", "new: .* there is .* already; choose another."),
        (
            "foo",
            "foo_kd",
            "new: the family 'foo' came; choose one of alignment, classification, .*, distillation/logits",
        ),
        ("distillation", "foo_kd", "new: the family 'distillation' came; choose one of alignment, classification,"),
    ],
)
def test_what_is_taken_or_unknown_is_refused(family, name, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        new_method(family, name, ROOT)


def test_outside_a_checkout_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-losses", "new", "distillation", "foo_kd"])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 2
    assert "is not a checkout of lightning_losses; change to one first." in capsys.readouterr().err
