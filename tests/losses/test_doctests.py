"""The examples in the docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import lightning_losses.losses
import lightning_losses.transport


def documented():
    packages = (lightning_losses.losses, lightning_losses.transport)
    found = ["lightning_losses.tensors", "lightning_losses.objective", "lightning_losses.distributed"]
    for package in packages:
        found += [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return found


@pytest.mark.parametrize("name", documented())
def test_examples(name):
    module = importlib.import_module(name)
    # The examples of the core name torch without importing it.
    results = doctest.testmod(module, extraglobs={"torch": importlib.import_module("torch")})
    assert results.failed == 0
