from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from lightning_losses.attacks.attack import Attack
from lightning_losses.experiments.config.instantiate import instantiate
from tests.attacks.networks import batch, convolutional

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "attack").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_makes_an_attack_with_its_classes_defaults(name):
    with initialize_config_module("lightning_losses.conf", version_base="1.3"):
        config = compose(overrides=[f"+attack={name}"])
    attack = instantiate(OmegaConf.create(OmegaConf.to_container(config)["attack"]))
    assert isinstance(attack, Attack) and attack.bounds == (0.0, 1.0)
    if name in (attack.name, "pgd"):
        plain = type(attack)()
        assert {n: getattr(attack, n) for n in attack._fields} == {n: getattr(plain, n) for n in plain._fields}
    network, (inputs, target) = convolutional(), batch()
    attacked = attack(network, inputs, target)
    assert attacked.shape == inputs.shape and torch.isfinite(attacked).all()
