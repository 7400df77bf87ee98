"""The Hessian's estimators against matrices and closed forms; the monitor leaves training alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses.callbacks.monitors.hessian_spectrum import HessianSpectrum
from lightning_losses.diagnostics.hessian_spectrum import hessian_product, hutchinson, lanczos
from tests.callbacks.training import PerProcess, Tiny, batches, network, train, trainer


def matrix(size=40):
    root = torch.randn(size, size, dtype=torch.float64)
    return root + root.T


@pytest.mark.parametrize("steps", [40, 100])
def test_as_many_steps_as_dimensions_give_every_eigenvalue(steps):
    symmetric = matrix()
    spectrum = lanczos(lambda v: symmetric @ v, 40, steps=steps, dtype=torch.float64)
    torch.testing.assert_close(spectrum.values, torch.linalg.eigvalsh(symmetric))
    assert spectrum.weights.sum().item() == pytest.approx(1)


def test_few_steps_find_a_separated_eigenvalue_with_its_sign():
    diagonal = torch.linspace(-3, 1, 500)
    diagonal[7] = 2.5
    spectrum = lanczos(lambda v: diagonal * v, 500, steps=25)
    # The gap to the rest is a quarter of the range: 25 steps leave rounding only.
    assert spectrum.values[-1].item() == pytest.approx(2.5, abs=1e-4)
    assert spectrum.values[0].item() == pytest.approx(-3, abs=0.02)


def test_an_operator_that_is_not_finite_has_no_spectrum():
    assert all(part.isnan().all() for part in lanczos(lambda v: v * torch.nan, 5))


@pytest.mark.parametrize("diagonal", [torch.zeros(5), torch.ones(5), torch.tensor([2.0, 2.0, 0.0])])
def test_an_exhausted_space_ends_it(diagonal):
    spectrum = lanczos(lambda v: diagonal * v, len(diagonal), steps=10)
    torch.testing.assert_close(spectrum.values.float(), diagonal.unique(), atol=1e-6, rtol=1e-6)


def test_the_trace_is_within_its_error():
    symmetric = matrix(60)
    estimate, square = hutchinson(lambda v: symmetric @ v, 60, probes=400, dtype=torch.float64)
    assert abs(estimate.value - symmetric.trace().item()) < 4 * estimate.error
    assert abs(square.value - symmetric.square().sum().item()) < 4 * square.error
    exact, _ = hutchinson(lambda v: symmetric @ v, 60, probes=None, dtype=torch.float64)
    assert exact.value == pytest.approx(symmetric.trace().item()) and exact.error == 0


def test_a_diagonal_trace_needs_one_probe():
    diagonal = torch.arange(5.0)
    assert hutchinson(lambda v: diagonal * v, 5, probes=1)[0].value == 10


def test_linear_regression_has_the_inputs_second_moment():
    inputs, target = torch.randn(30, 4, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    weight, unused = (torch.zeros(size, dtype=torch.float64, requires_grad=True) for size in (4, 2))
    loss = (inputs @ weight - target).square().mean() / 2
    product = hessian_product(loss, [weight, unused])
    moment = inputs.T @ inputs / 30
    vector = torch.randn(6, dtype=torch.float64)
    torch.testing.assert_close(product(vector), torch.cat([moment @ vector[:4], torch.zeros(2, dtype=torch.float64)]))
    assert hutchinson(product, 6, probes=None, dtype=torch.float64)[0].value == pytest.approx(
        inputs.square().sum(1).mean().item()
    )
    assert weight.grad is None


class Forward(Tiny):
    def __init__(self):
        super().__init__()
        self.network.append(nn.Dropout(0.5))

    def forward(self, inputs):
        return self.network(inputs)


def test_the_monitor_measures_the_evaluated_network_and_disturbs_nothing(tmp_path):
    def weights(callbacks):
        torch.manual_seed(1)
        module = Forward()
        trainer(tmp_path, callbacks).fit(module, PerProcess(batches()))
        return module.state_dict()

    monitor = HessianSpectrum(lanczos_steps=70, trace_probes=4, every_n_steps=3, folder=tmp_path)
    watched, alone = weights([monitor]), weights([])
    assert all(torch.equal(watched[name], alone[name]) for name in alone)
    assert monitor.steps == [0, 3] and monitor.values["edge"] == [4, 4]
    module, (inputs, target) = network().double(), batches()[0]
    parameters = list(module.parameters())
    loss = F.cross_entropy(module(inputs.double()), target)
    exact = lanczos(hessian_product(loss, parameters), 66, steps=66, dtype=torch.float64).values
    # The monitor's network is in float32.
    assert monitor.values["largest"][0] == pytest.approx(exact[-1].item(), rel=1e-4)
    assert monitor.values["smallest"][0] == pytest.approx(exact[0].item(), abs=1e-4)
    assert (tmp_path / "hessian.png").stat().st_size > 10_000


def keep(folder):
    class Keep(HessianSpectrum):
        def on_fit_end(self, trainer, module):
            torch.save(self.state_dict()["values"], folder / f"values{trainer.global_rank}.pt")

    return lambda: [Keep(lanczos_steps=30, trace_probes=2, every_n_steps=3)]


class Called(Tiny):
    def forward(self, inputs):
        return self.network(inputs)


@pytest.mark.distributed
def test_processes_share_one_hessian(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.callbacks.training.Tiny", Called)
    train(tmp_path, keep(tmp_path))
    alone = torch.load(tmp_path / "values0.pt")
    train(tmp_path, keep(tmp_path), strategy="ddp")
    for rank in (0, 1):
        for name, values in torch.load(tmp_path / f"values{rank}.pt").items():
            assert values == pytest.approx(alone[name], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("wrong", [{"lanczos_steps": 0}, {"trace_probes": 0}, {"samples": 0}, {"every_n_steps": 0}])
def test_numbers_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HessianSpectrum(**wrong)
