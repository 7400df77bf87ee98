"""Two classifiers as one: the mixture, its gate, and what an attack sees."""

import math

import pytest
import torch
from torch import nn

from lightning_losses import AdaptiveSmoothingLoss, Objective
from lightning_losses.attacks import FGSM
from lightning_losses.modules.adaptive_smoothing_classifier import AdaptiveSmoothingClassifier
from lightning_losses.networks.adaptive_smoothing import AdaptiveSmoothing

INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(6) % 3


def classifier(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def mixed(gate, **options):
    return AdaptiveSmoothing(classifier(0), classifier(1), gate, **options)


def test_a_fixed_gate_mixes_probabilities():
    network = mixed(math.log(3), accurate_scale=2.0)
    first, second = (2 * network.accurate(INPUTS)).softmax(dim=1), network.robust(INPUTS).softmax(dim=1)
    torch.testing.assert_close(network(INPUTS).exp(), 0.25 * first + 0.75 * second)


@pytest.mark.parametrize(("gate", "alone"), [(-math.inf, "accurate"), (math.inf, "robust")])
def test_an_infinite_gate_is_one_classifier(gate, alone):
    network, inputs = mixed(gate), INPUTS.clone().requires_grad_()
    log_p = network(inputs)
    torch.testing.assert_close(log_p, getattr(network, alone)(INPUTS).log_softmax(dim=1))
    assert torch.autograd.grad(log_p.sum(), inputs)[0].isfinite().all()


def test_a_class_that_one_or_both_mask_stays_finite_elsewhere():
    class Masking(nn.Module):
        def __init__(self, masked):
            super().__init__()
            self.masked = masked

        def forward(self, inputs):
            return inputs.clone().index_fill(1, torch.tensor(self.masked), -torch.inf)

    inputs = INPUTS.clone().requires_grad_()
    log_p = AdaptiveSmoothing(Masking([0, 1]), Masking([0]), gate=0.0)(inputs)
    assert torch.isneginf(log_p[:, 0]).all() and log_p[:, 1:].isfinite().all()
    assert torch.autograd.grad(log_p[:, 1:].sum(), inputs)[0].isfinite().all()
    torch.testing.assert_close(log_p.exp().sum(dim=1), torch.ones(6))


def test_the_gate_sees_the_named_layers_and_stays_within_its_range_in_evaluation():
    seen = []

    class Gate(nn.Linear):
        def forward(self, inputs):
            seen.append(inputs)
            return 100 * super().forward(inputs)

    network = mixed(Gate(10, 1), layers=["0", "1"], least=0.2, most=0.7).eval()
    parts = network.mixture(INPUTS)
    torch.testing.assert_close(
        seen[0], torch.cat([network.accurate[0](INPUTS), network.robust[:2](INPUTS)], dim=1).detach()
    )
    share = 0.2 + 0.5 * parts.gate_score.sigmoid()
    expected = (1 - share).unsqueeze(1) * parts.accurate.exp() + share.unsqueeze(1) * parts.robust.exp()
    torch.testing.assert_close(parts.log_probabilities.exp(), expected)
    # In training the range is not narrowed.
    parts = network.train().mixture(INPUTS)
    share = parts.gate_score.sigmoid().unsqueeze(1)
    torch.testing.assert_close(
        parts.log_probabilities.exp(), (1 - share) * parts.accurate.exp() + share * parts.robust.exp()
    )


def test_the_classifiers_are_frozen_and_stay_in_evaluation_mode():
    network = mixed(nn.Linear(6, 1)).train()
    assert network.gate.training and not network.accurate[1].training and not network.robust.training
    before = network.accurate[1].running_mean.clone()
    network(INPUTS).sum().backward()
    assert torch.equal(network.accurate[1].running_mean, before) and network.accurate[0].weight.grad is None
    assert network.gate.weight.grad is not None


def test_the_gradient_goes_through_the_gate():
    network, inputs = mixed(nn.Linear(6, 1)).eval(), INPUTS.clone().requires_grad_()
    (whole,) = torch.autograd.grad(network(inputs)[:, 0].sum(), inputs)
    parts = network.mixture(inputs)
    share = parts.gate_score.detach().sigmoid().unsqueeze(1)
    held = ((1 - share) * parts.accurate.exp() + share * parts.robust.exp()).log()
    (without,) = torch.autograd.grad(held[:, 0].sum(), inputs)
    assert not torch.allclose(whole, without)


def test_training_moves_the_gate_towards_the_classifier_with_the_lower_loss():
    torch.manual_seed(0)
    # The second classifier is right about everything, the first about nothing.
    right, wrong = nn.Linear(4, 3), nn.Linear(4, 3)
    target = right(INPUTS).argmax(dim=1)
    wrong.weight.data, wrong.bias.data = -right.weight.data, -right.bias.data
    network = AdaptiveSmoothing(wrong, right, gate=nn.Linear(6, 1))
    module = AdaptiveSmoothingClassifier(
        FGSM(epsilon=0.05, bounds=None), network=network, objective=Objective({"gate": AdaptiveSmoothingLoss()}),
        num_classes=3,
    )  # fmt: skip
    found = module.training_step({"inputs": INPUTS, "target": target}, 0)
    assert found["logits"].shape == (12, 3) and not torch.equal(found["inputs"][6:], INPUTS)
    assert found["gate_target"][:6].all()
    found["loss"].backward()
    assert network.gate.weight.grad.abs().sum() > 0 and right.weight.grad is None


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_a_gate_that_is_certain_has_a_gradient_at_the_ends_of_its_range(scale):
    network = mixed(nn.Linear(6, 1), gate_scale=scale, least=0.2).eval()
    inputs = INPUTS.clone().requires_grad_()
    parts = network.mixture(inputs)
    share = (0.2 + 0.8 * parts.gate_score.double().sigmoid()).unsqueeze(1)
    assert ((share == 1) | (share == 0.2)).all()
    expected = (1 - share) * parts.accurate.double().exp() + share * parts.robust.double().exp()
    torch.testing.assert_close(parts.log_probabilities.exp(), expected.float())
    assert torch.autograd.grad(parts.log_probabilities[:, 0].sum(), inputs)[0].isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_it_runs_in_half_precision(training):
    network = mixed(nn.Linear(6, 1)).to(torch.bfloat16).train(training)
    parts = network.mixture(INPUTS.to(torch.bfloat16))
    assert parts.gate_score.dtype == parts.log_probabilities.dtype == torch.float32
    torch.testing.assert_close(parts.log_probabilities.exp().sum(dim=1), torch.ones(6))


def test_the_gates_statistics_stay_out_of_half_precision():
    network = mixed(nn.Linear(6, 1)).to(torch.bfloat16)
    network.normalise.running_mean.fill_(1.0)
    network.normalise(torch.full((2, 1), 1.1))
    torch.testing.assert_close(network.normalise.running_mean, torch.tensor([1.001]))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: mixed(math.nan), "AdaptiveSmoothing: gate=nan came"),
        (lambda: mixed(None), "AdaptiveSmoothing: gate=None came"),
        (lambda: mixed(nn.Linear(6, 1))(INPUTS[:1]), "AdaptiveSmoothing: one sample came in training"),
        (lambda: mixed(0.0, least=0.5, most=0.2), "AdaptiveSmoothing: most=0.2 came"),
        (lambda: mixed(0.0, layers="0"), "AdaptiveSmoothing: layers='0' came"),
        (lambda: mixed(nn.Linear(8, 1), layers=["0", "9"])(INPUTS), "AdaptiveSmoothing: layers names '9'"),
        (lambda: mixed(nn.Linear(6, 2))(INPUTS), r"AdaptiveSmoothing: the gate gave shape \[6, 2\] for 6 samples"),
        (
            lambda: AdaptiveSmoothingClassifier(
                FGSM(), network=mixed(0.0), objective=Objective({"a": AdaptiveSmoothingLoss()}), num_classes=3
            ),
            "AdaptiveSmoothingClassifier: network=AdaptiveSmoothing came; give an",
        ),
    ],
    ids=["number", "nothing", "one sample", "range", "layers", "layer", "gate", "untrained"],
)
def test_what_does_not_fit_is_refused(make, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        make()
