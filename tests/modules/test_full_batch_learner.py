"""The lean module: its step is the objective's, its validation the metrics of the whole split."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F

from lightning_losses.data.lazy_rich_polynomial import LazyRichPolynomial
from lightning_losses.data.modular_arithmetic import ModularArithmetic
from lightning_losses.losses import CrossEntropy
from lightning_losses.modules.full_batch_learner import FullBatchLearner
from lightning_losses.networks.mlp import MLP
from lightning_losses.networks.polynomial_network import PolynomialNetwork
from lightning_losses.objective import Objective, Term


def fit(module, data, folder):
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=4,
        val_check_interval=2,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(module, data)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def test_classes(tmp_path):
    data = ModularArithmetic(prime=7, steps_per_epoch=4)
    module = FullBatchLearner(MLP(14, 7), Objective({"ce": CrossEntropy()}), sgd)
    logged = fit(module, data, tmp_path)
    with torch.no_grad():
        logits, target = module(data.test["inputs"]), data.test["target"]
    assert logged["val/accuracy"] == pytest.approx((logits.argmax(1) == target).double().mean().item())
    assert logged["val/loss"] == pytest.approx(F.cross_entropy(logits, target).item(), rel=1e-5)


def test_regression(tmp_path):
    data = LazyRichPolynomial(dimension=5, train_samples=20, test_samples=30, steps_per_epoch=4)
    objective = Objective({"mse": Term(torch.nn.MSELoss(), inputs={"input": "logits"})})
    module = FullBatchLearner(PolynomialNetwork(5), objective, sgd, measure="loss")
    logged = fit(module, data, tmp_path)
    with torch.no_grad():
        error = F.mse_loss(module(data.test["inputs"]), data.test["target"]).item()
    assert logged == {"val/loss": pytest.approx(error, rel=1e-5)}


def test_an_unknown_measure_is_refused():
    with pytest.raises(ValueError, match="measure='recall'"):
        FullBatchLearner(MLP(4, 2), Objective({"ce": CrossEntropy()}), measure="recall")


def test_attributes_are_a_modules():
    module = FullBatchLearner(MLP(14, 7), Objective({"ce": CrossEntropy()}), sgd)
    module.gain = torch.nn.Parameter(torch.ones(1))
    module._current_fx_name = "training_step"
    assert "gain" in dict(module.named_parameters()) and module._current_fx_name == "training_step"
