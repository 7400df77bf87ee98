"""LightningCLI builds objectives of class paths: jsonargparse reads the annotations."""

import typing

import pytest
from torch import nn

from lightning_losses import NKD, CrossEntropy, Objective, Term
from lightning_losses.callbacks.monitors.hessian_spectrum import HessianSpectrum
from lightning_losses.callbacks.monitors.linear_mode_connectivity import LinearModeConnectivity
from lightning_losses.losses.adapted import Adapted
from lightning_losses.objective import WarmUp

TERMS = {
    "ce": {"class_path": "lightning_losses.CrossEntropy"},
    "nkd": {
        "class_path": "lightning_losses.Term",
        "init_args": {
            "loss": {"class_path": "lightning_losses.NKD", "init_args": {"gamma": 2.0}},
            "weight": {"class_path": "lightning_losses.objective.WarmUp", "init_args": {"value": 0.5}},
        },
    },
}


@pytest.mark.parametrize("takes_loss", [Term, Adapted, HessianSpectrum, LinearModeConnectivity])
def test_a_loss_is_annotated_as_a_module_too(takes_loss):
    # Of an annotation that says Callable alone nothing is built.
    assert nn.Module in typing.get_args(typing.get_type_hints(takes_loss.__init__)["loss"])


def test_terms_are_annotated_as_modules_too():
    (_, terms) = typing.get_args(typing.get_type_hints(Objective.__init__)["terms"])
    assert nn.Module in typing.get_args(terms)


def test_an_objective_is_built_and_its_configuration_builds_it_again():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--objective", type=Objective)
    objective = {"class_path": "lightning_losses.Objective", "init_args": {"terms": TERMS}}
    config = parser.parse_object({"objective": objective})
    again = parser.parse_string(parser.dump(config))
    for parsed in (config, again):
        objective = parser.instantiate(parsed).objective
        assert isinstance(objective.terms["ce"].loss, CrossEntropy)
        assert isinstance(objective.terms["nkd"].loss, NKD)
        assert objective.terms["nkd"].loss.gamma == 2.0
        assert isinstance(objective.terms["nkd"].weight, WarmUp)
