"""Losses of other distributions are found by their entry points, and a broken one does no harm."""

import json
import sys

import pytest

import lightning_losses.losses as losses
from lightning_losses.catalogue import command_line as cli
from lightning_losses.catalogue.other_losses import every_loss
from lightning_losses.losses.registered import registered_losses

MODULE = '''
"""A loss of somebody else."""

from lightning_losses.losses import Loss


class {name}(Loss):
    """Half the sum of the logits' squares.

    Source:
        Somebody, 2025, "Halves", arXiv:2501.00001.
    """

    batch_coupled = True
    status = "paper"

    def forward(self, logits, target=None):
        return 0.5 * (logits**2).sum()
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with these entry points and modules on the path."""
    names = []

    def installed(entry_points, **modules):
        folder = tmp_path / "their_losses-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-losses\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points]
        (folder / "entry_points.txt").write_text("\n".join(["[lightning_losses.losses]", *lines, ""]))
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
            names.append(name)
        monkeypatch.syspath_prepend(tmp_path)
        registered_losses.cache_clear()

    yield installed
    registered_losses.cache_clear()
    for name in names:
        sys.modules.pop(name, None)


def test_a_registered_loss_is_in_the_catalogue_in_the_list_and_in_the_package(install, monkeypatch, capsys):
    install([("halves", "their_halves:Halves")], their_halves=MODULE.format(name="Halves"))
    assert "their_halves" not in sys.modules
    losses.loss_classes()
    assert "their_halves" not in sys.modules  # nobody has asked for it
    (entry,) = every_loss("registered")
    assert (entry.id, entry.name, entry.module) == ("halves", "Halves", "their_halves")
    assert entry.summary == "Half the sum of the logits' squares" and entry.paper.endswith("arXiv:2501.00001")
    assert entry.inputs == {"logits": True, "target": False} and entry.batch_coupled and entry.status == "paper"
    assert losses.Halves is registered_losses()["halves"] is sys.modules["their_halves"].Halves
    monkeypatch.setattr(sys, "argv", ["lightning-losses", "list", "--json"])
    cli.main()
    assert "halves" in [entry["id"] for entry in json.loads(capsys.readouterr().out)]
    assert entry not in every_loss("distillation") and entry not in every_loss(needs="teacher_logits")


def test_a_name_that_nobody_has_is_an_attribute_error(install):
    install([])
    with pytest.raises(AttributeError, match="has no loss 'Halves'"):
        losses.Halves  # noqa: B018


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("no_such_module:Halves", r"can't be loaded \(ModuleNotFoundError: No module named 'no_such_module'\)"),
        ("their_halves:Thirds", r"can't be loaded \(AttributeError"),
        ("their_broken:Halves", r"can't be loaded \(ZeroDivisionError"),
        ("their_halves:__name__", r"leads to 'their_halves'; register a subclass of"),
    ],
)
def test_a_broken_entry_point_is_a_warning_that_names_it(install, value, what):
    install(
        [("broken", value), ("halves", "their_halves:Halves")],
        their_halves=MODULE.format(name="Halves"),
        their_broken="1 / 0",
    )
    with pytest.warns(UserWarning, match=rf"entry point 'broken = {value}' of their-losses {what}.*left out"):
        found = registered_losses()
    assert list(found) == ["halves"]


def test_two_losses_of_one_name_are_a_warning(install):
    install(
        [("halves", "their_halves:Halves"), ("halves", "their_thirds:Thirds")],
        their_halves=MODULE.format(name="Halves"),
        their_thirds=MODULE.format(name="Thirds"),
    )
    with pytest.warns(UserWarning, match=r"'halves = their_thirds:Thirds' .* has the name of their_halves.Halves"):
        assert registered_losses()["halves"].__name__ == "Halves"


def test_losses_of_other_libraries_are_listed_as_wrapped(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-losses", "list", "--family", "wrapped", "--needs", "features"])
    cli.main()
    shown = capsys.readouterr().out
    assert "multi_similarity" in shown and "MultiSimilarityLoss" in shown and "zlpr" not in shown
    entries = {entry.id: entry for entry in every_loss()}
    assert entries["zlpr"].status == "wrapped" and entries["zlpr"].module == "timm.loss"
    assert entries["two_way"].batch_coupled and not entries["zlpr"].batch_coupled
    assert all(len(entry.summary) > 20 for entry in every_loss("wrapped"))
    assert entries["kd"].family == "distillation/divergences"
