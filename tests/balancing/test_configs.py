"""Every policy is one override of a run: balancing=NAME."""

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from lightning_losses.catalogue.configurations import configurations
from lightning_losses.experiments.config.check_config import check_config
from lightning_losses.experiments.config.instantiate import ConfigError, instantiate
from lightning_losses.modules.classifier import parameters_to_train
from tests.balancing.test_policies import OWN

NAMES = sorted(choice.partition("=")[2] for choice in configurations() if choice.startswith("balancing="))


def with_policy(name):
    return OmegaConf.create({"objective": {**configurations()["objective=kd"], "balancing": policy(name)}})


def policy(name):
    return configurations()[f"balancing={name}"]


def test_each_policy_has_a_configuration_of_its_name_with_its_defaults():
    assert sorted(["none", *(kind.__module__.rpartition(".")[2] for kind in OWN)]) == NAMES
    for kind in OWN:
        name = kind.__module__.rpartition(".")[2]
        check_config(with_policy(name), Nothing)
        built = instantiate(with_policy(name).objective).balancing
        assert type(built) is kind and repr(built) == repr(kind())


def test_one_override_of_a_run_chooses_it():
    with initialize_config_module("lightning_losses.conf", version_base="1.3"):
        assert compose("train", overrides=["objective=kd", "balancing=pcgrad"]).objective.balancing == policy("pcgrad")
        assert "balancing" not in compose("train").objective


class Nothing:
    """There is nothing else at the top level."""


def test_a_setting_out_of_range_is_refused():
    config = with_policy("cagrad")
    config.objective.balancing.c = 2.0
    with pytest.raises(ConfigError, match=r"objective\.balancing\.c=2\.0"):
        check_config(config, Nothing)


def test_what_a_policy_learns_does_not_decay():
    objective = instantiate(with_policy("uncertainty_weighting").objective)
    module = torch.nn.ModuleDict({"network": torch.nn.Linear(2, 2), "objective": objective})
    optimizer = torch.optim.AdamW(parameters_to_train(module, objective), weight_decay=0.5)
    held = [[tuple(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]
    assert held == [[(2, 2), (2,)], [(2,)]] and [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.0]
