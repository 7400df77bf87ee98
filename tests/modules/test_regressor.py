from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lightning_losses.losses import BetaNLL, CrossEntropy, CRPSEnsemble, GaussianNLL, Pinball
from lightning_losses.modules.regressor import Regressor, point_prediction
from lightning_losses.networks.distribution_heads import EnsembleHead, EvidentialHead, GaussianHead, WithHead
from lightning_losses.objective import Objective, Term

OBJECTIVES = Path(__file__).parents[2] / "conf" / "objective"
NAMES = [
    "gaussian_nll",
    "beta_nll",
    "pinball",
    "crps_gaussian",
    "crps_ensemble",
    "energy_score",
    "evidential_regression",
    "hl_gauss",
    "two_hot",
    "regression_mse",
]


def batch():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 3, generator=generator)
    return {"inputs": inputs, "target": inputs @ torch.tensor([1.0, -2.0, 0.5]), "index": torch.arange(64)}


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_of_the_family_learns(name):
    torch.manual_seed(0)
    objective = hydra.utils.instantiate(OmegaConf.load(OBJECTIVES / f"{name}.yaml"))
    module = Regressor(nn.Linear(3, 8), objective, num_features=8)
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    errors = []
    for _ in range(60):
        output = module.training_step(batch(), 0)
        errors.append((point_prediction(output) - output["regression_target"]).detach().square().mean().item())
        optimizer.zero_grad()
        output["loss"].backward()
        assert all(parameter.grad is not None for parameter in module.parameters())
        optimizer.step()
    assert errors[-1] < 0.2 * errors[0]


def test_mean_squared_error_is_an_objective_too():
    mse = Term(nn.MSELoss(), inputs={"input": "mean", "target": "regression_target"})
    output = Regressor(nn.Linear(3, 8), Objective({"mse": mse}), num_features=8).training_step(batch(), 0)
    expected = (output["mean"] - batch()["target"]).square().mean()
    torch.testing.assert_close(output["loss"], expected)
    assert "variance" not in output


def test_heads_of_several_targets():
    inputs, y = torch.randn(5, 3), torch.randn(5, 2)
    gaussian = Regressor(WithHead(nn.Linear(3, 8), GaussianHead(8, targets=2)), Objective({"beta": BetaNLL()}))
    assert gaussian.training_step((inputs, y), 0)["mean"].shape == (5, 2)
    members = EnsembleHead(8, members=4, targets=2)
    ensemble = Regressor(WithHead(nn.Linear(3, 8), members), Objective({"crps": CRPSEnsemble()}))
    assert ensemble.predict_step((inputs, y), 0)["ensemble"].shape == (5, 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        evidential = EvidentialHead(8, targets=2)(torch.full((1, 8), -50.0))["evidential"]
    assert evidential.shape == (1, 2, 4) and evidential.dtype == torch.float32
    assert bool((evidential[..., 2] > 1).all())


def test_of_an_even_number_of_quantiles_the_middle_two_are_the_point():
    assert point_prediction({"quantiles": torch.tensor([[3.0, 0.0, 9.0, 1.0]])}).item() == 2
    assert point_prediction({"quantiles": torch.tensor([[9.0, 1.0, 4.0]])}).item() == 4


def test_validation_measures_the_point_prediction(monkeypatch):
    module = Regressor(nn.Linear(3, 8), Objective({"pinball": Pinball()}), num_features=8)
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    module.validation_step(batch(), 0)
    predicted = point_prediction(module(batch()["inputs"])).detach()
    rmse = (predicted - batch()["target"]).square().mean().sqrt()
    torch.testing.assert_close(module.val_metrics.compute()["val/rmse"], rmse)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: Regressor(nn.Linear(3, 8), Objective({"ce": CrossEntropy()}), num_features=8),
            "no head fits the objective, since it takes no prediction of a number; give a network that returns a "
            "mapping of what it takes, such as a WithHead, and no num_features.",
        ),
        (
            lambda: Regressor(nn.Linear(3, 8), Objective({"nll": GaussianNLL(), "pinball": Pinball()}), num_features=8),
            "no head fits the objective, since it takes mean and variance and quantiles; give a network that returns a "
            "mapping of what it takes, such as a WithHead, and no num_features.",
        ),
        (
            lambda: Regressor(nn.Linear(3, 1), Objective({"nll": GaussianNLL()}))(torch.zeros(1, 3)),
            "the network returned a Tensor; give num_features, the width of its features, or a network that returns a "
            "mapping, as WithHead(network, GaussianHead(64)) does.",
        ),
    ],
    ids=["no prediction", "two heads", "no mapping"],
)
def test_what_does_not_fit_is_told(make, told):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == f"Regressor: {told}"
