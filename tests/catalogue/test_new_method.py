"""What `lightning-losses new` writes keeps what every method must keep, and says what is left to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_losses.catalogue import command_line as cli
from lightning_losses.catalogue.new_method import FILL_IN, new_method

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """The parts of a checkout that a new method touches or is tested by."""
    ignore = shutil.ignore_patterns("__pycache__", "*.npz", "callbacks", "experiments", "recipes")
    for name in ("lightning_losses", "conf", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    (tmp_path / "docs").mkdir()
    for page in (ROOT / "docs").glob("*.md"):
        shutil.copy(page, tmp_path / "docs")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    # Before the installed project's own.
    shutil.copytree(ROOT / "conf", tmp_path / "lightning_losses" / "conf", ignore=ignore)
    return tmp_path


def run(*command, folder):
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


@pytest.mark.slow
def test_a_new_method_has_every_corner_and_an_unfinished_part(checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    for family, identifier in (("distillation/logits", "foo_kd"), ("classification", "bar_" + 26 * "r")):
        monkeypatch.setattr(sys, "argv", ["lightning-losses", "new", family, identifier])
        cli.main()
    written = capsys.readouterr().out.split()
    assert len(written) == 8 and all(FILL_IN in Path(path).read_text() for path in written if "test_" not in path)

    style = [path for path in written if path.endswith(".py")]
    for command in (["ruff", "check", *style], ["ruff", "format", "--check", *style]):
        assert (checked := run(*command, folder=checkout)).returncode == 0, checked.stdout

    tests = [
        "tests/losses/test_every_loss.py",
        "tests/catalogue/test_catalogue.py",
        "tests/losses/distillation/logits/test_foo_kd.py",
        f"tests/losses/classification/test_bar_{26 * 'r'}.py",
    ]
    found = run("pytest", "-q", "-p", "no:cacheprovider", "-k", "foo_kd or bar_", *tests, folder=checkout).stdout
    failures = [line for line in found.splitlines() if line.startswith("FAILED")]
    assert len(failures) == 2 and all("::test_nothing_is_left_to_fill_in" in line for line in failures), found
    assert int(found.rpartition("2 failed, ")[2].split()[0]) > 80
    assert (
        "is not done in ['lightning_losses/losses/distillation/logits/foo_kd.py', 'conf/objective/foo_kd.yaml'" in found
    )

    # The second time both are there.
    with pytest.raises(ValueError, match="^new: the name 'foo_kd' came, and there is .* already; choose another"):
        new_method("distillation/divergences", "foo_kd", checkout)


@pytest.mark.parametrize(
    "name", ["FooKD", "foo-kd", "1foo", "foo__kd", "class", "", "foo kd", "../foo", "foo_", 31 * "f"]
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
        ("classification", "cross_entropy", "new: .* there is .* already; choose another."),
        (
            "foo",
            "foo_kd",
            "new: the family 'foo' came; choose one of classification, confidence, distillation/divergences,",
        ),
        ("distillation", "foo_kd", "new: the family 'distillation' came; choose one of classification, confidence,"),
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
