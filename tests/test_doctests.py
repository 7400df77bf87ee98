"""The examples in the docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import lightning_losses


def documented():
    found = pkgutil.walk_packages(lightning_losses.__path__, "lightning_losses.")
    # The recipes are programs, and conf holds no code.
    return [
        info.name for info in found if not info.name.startswith(("lightning_losses.recipes", "lightning_losses.conf"))
    ]


@pytest.mark.parametrize("name", documented())
def test_examples(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner()
    # The examples of the core name torch without importing it.
    for documented in doctest.DocTestFinder().find(module, extraglobs={"torch": importlib.import_module("torch")}):
        # To run none takes as long as to run one: all lines that Python remembers are looked up anew.
        if documented.examples:
            runner.run(documented)
    assert runner.summarize(verbose=False).failed == 0
