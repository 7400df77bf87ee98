"""Every callback is found by its class name, and keeps what it has by itself."""

import importlib
import pkgutil
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback

import lightning_losses.callbacks as callbacks
from lightning_losses.callbacks import (
    ClassCentroids,
    ClassCounts,
    EmpiricalNTK,
    GrokkingMonitor,
    History,
    WeightNorms,
)
from lightning_losses.callbacks.access import evaluation_mode
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.checkpoints.process_states import same
from lightning_losses.environment.lazy_exports import exports

BASES = {
    f"{kind}Monitor" for kind in ("", "Attack", "Evaluation", "Gradient", "Layer", "Logit", "Parameter", "Probe")
} | {"DeclaredCallback"}


def own():
    for info in pkgutil.walk_packages(callbacks.__path__, f"{callbacks.__name__}."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            mine = isinstance(value, type) and issubclass(value, Callback) and value.__module__ == module.__name__
            if mine and name not in BASES and not name.startswith("_"):
                yield name, value


def test_every_callback_is_offered_by_its_class_name():
    classes = dict(own())
    assert exports(callbacks.__file__).keys() == classes.keys()
    assert all(getattr(callbacks, name) is value for name, value in classes.items())


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="Nothing"):
        _ = callbacks.Nothing


def test_what_a_callback_keeps_is_not_what_goes_on_changing():
    class Keeping(DeclaredCallback):
        kept = ("sums",)

    callback = Keeping()
    callback.sums = {"each": [torch.ones(2)]}
    state = callback.state_dict()
    callback.sums["each"][0].zero_()
    assert state["sums"]["each"][0].tolist() == [1, 1]
    callback.load_state_dict(state)
    callback.sums["each"][0].zero_()
    assert state["sums"]["each"][0].tolist() == [1, 1]


@pytest.mark.parametrize("begun", [0, 7], ids=["another network", "the same fit goes on"])
@pytest.mark.parametrize("make", [WeightNorms, GrokkingMonitor, EmpiricalNTK, ClassCounts, ClassCentroids, History])
def test_a_fit_from_the_start_forgets_the_one_before(make, begun):
    callback, trainer = make(), SimpleNamespace(global_step=0)
    fresh = callback.state_dict()
    callback.setup(trainer, None, "fit")
    used = {name: torch.ones(2) if value is None or name == "_begun" else [1] for name, value in fresh.items()}
    callback.load_state_dict(used)
    trainer.global_step = begun
    callback.setup(trainer, None, "fit")
    assert same(callback.state_dict(), used if begun else fresh)


def test_evaluation_leaves_the_random_numbers_of_training_alone():
    network = torch.nn.Linear(1, 1)
    before = torch.get_rng_state()
    with evaluation_mode(network):
        torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
