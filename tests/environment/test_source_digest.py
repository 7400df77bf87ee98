"""Which code counts for a result, and which does not."""

import pytest

from lightning_losses.environment import source_digest as sources
from lightning_losses.environment.source_digest import source_digest, source_modules
from lightning_losses.experiments.comparison.runner import _MEASURES


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
