"""Which code counts for a result, and which does not."""

import pytest

from lightning_losses.experiments.comparison.runner import _MEASURES
from lightning_losses.experiments.evidence.kept_results import KeptResults
from lightning_losses.experiments.training import sources
from lightning_losses.experiments.training.sources import essential, source_digest, source_modules, targets


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in which a.One needs b.two, and c.Three nothing; `written` rewrites a module."""

    def written(**modules):
        for name, text in modules.items():
            (tmp_path / "lightning_losses_example" / f"{name}.py").write_text(text)
        for cached in (sources._home, sources._imports, sources._code):
            cached.cache_clear()

    (tmp_path / "lightning_losses_example").mkdir()
    written(
        __init__="from lightning_losses_example.a import One\nfrom lightning_losses_example.c import Three\n",
        a="from lightning_losses_example.b import two\n\n\nclass One:\n    '''Text.'''\n\n    x = two\n",
        b="def two():\n    return 2\n",
        c="class Three:\n    pass\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sources, "_PACKAGE", "lightning_losses_example")
    yield written
    for cached in (sources._home, sources._imports, sources._code):
        cached.cache_clear()


def test_what_is_imported_counts_and_what_stands_beside_it_does_not(package):
    names = ["lightning_losses_example.One", "torch.nn.Linear"]
    assert source_modules(names) == ["lightning_losses_example.a", "lightning_losses_example.b"]
    before = source_digest(names)
    package(c="class Three:\n    new = 3\n")
    assert source_digest(names) == before
    package(b="def two():\n    return 3\n")
    assert source_digest(names) != before


def test_comments_docstrings_and_layout_do_not_count(package):
    names = ["lightning_losses_example.One"]
    before = source_digest(names)
    package(b="def two():\n    '''New.'''\n    # New.\n\n    return (2)\n")
    assert source_digest(names) == before


def test_of_a_loss_its_file_counts_and_no_other_loss():
    modules = source_modules(["lightning_losses.losses.SinKD"])
    families = {module for module in modules if module.startswith("lightning_losses.losses.") and module.count(".") > 2}
    # Beside the families stands what every loss is made of.
    assert families == {"lightning_losses.losses.distillation.logits.sinkd"}
    assert any(module.startswith("lightning_losses.transport.") for module in modules)
    # Of what trains a network, and of what measures one, no loss of a family counts.
    training = source_modules(["lightning_losses.experiments.training.training", *_MEASURES])
    assert "lightning_losses.experiments.training.evaluation" in training
    assert not [
        module for module in training if module.startswith("lightning_losses.losses.") and module.count(".") > 2
    ]
    with pytest.raises(ValueError, match="there is no 'lightning_losses.losses.Nothing'"):
        source_modules(["lightning_losses.losses.Nothing"])


def test_targets_are_found_wherever_they_are():
    assert sorted(targets({"a": {"_target_": "x", "b": [{"_target_": "y"}]}, "c": "z"})) == ["x", "y"]


def test_an_argument_at_its_default_is_as_good_as_none():
    digits = {"_target_": "lightning_losses.data.Digits", "batch_size": 32}
    written_out = {**digits, "val_fraction": 0.2, "train_rows": None}
    assert essential({"data": [written_out]}) == {"data": [digits]}
    assert essential({**digits, "batch_size": 64}) == {"_target_": "lightning_losses.data.Digits"}
    # What no signature knows, and what only looks like the default, stays.
    for odd in ({**digits, "new": None}, {"_target_": "no.such", "a": 1}, {**digits, "seed": False}):
        assert essential(odd) == odd


def test_a_damaged_result_is_none_and_a_new_one_replaces_it(tmp_path):
    kept = KeptResults(tmp_path)
    kept.save({"seed": 0}, "a", {"accuracy": 0.5, "nll": None})
    assert kept.load({"seed": 0}, "a").values == {"accuracy": 0.5, "nll": None}
    assert kept.load({"seed": 1}, "a") is None
    kept.place({"seed": 0}, "a").write_text('{"values": {"accur')
    assert kept.load({"seed": 0}, "a") is None
    kept.save({"seed": 0}, "a", {"accuracy": 0.6})
    assert kept.load({"seed": 0}, "a").values == {"accuracy": 0.6}
    # Nothing else is left behind.
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
