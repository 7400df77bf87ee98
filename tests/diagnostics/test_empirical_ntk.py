"""The tangent kernel against its closed forms, and similarities of kernels at their limits."""

import math

import pytest
import torch
from torch import nn

from lightning_losses.callbacks.monitors.empirical_ntk import EmpiricalNTK
from lightning_losses.diagnostics.empirical_ntk import empirical_ntk, trace_ntk
from lightning_losses.diagnostics.kernel_similarity import (
    effective_rank,
    kernel_alignment,
    kernel_distance,
    label_alignment,
    linear_cka,
    one_sided_alignment,
)
from lightning_losses.networks.polynomial_network import PolynomialNetwork
from tests.callbacks.training import PerProcess, Tiny, batches, trainer


def test_a_linear_network_has_the_inputs_products():
    inputs = torch.randn(5, 3)
    network = nn.Linear(3, 4, bias=False)
    products = inputs @ inputs.T
    torch.testing.assert_close(trace_ntk(network, inputs), 4 * products)
    full = empirical_ntk(network, inputs)
    torch.testing.assert_close(full, torch.einsum("ij,cd->icjd", products, torch.eye(4)))


def test_it_is_the_closed_form_of_a_nonlinear_network():
    network, inputs = PolynomialNetwork(4, hidden=6, alpha=2.0).double(), torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(trace_ntk(network, inputs), network.kernel(inputs, inputs).detach())


def test_frozen_parameters_do_not_count():
    network = nn.Linear(3, 1)
    network.weight.requires_grad_(False)
    torch.testing.assert_close(trace_ntk(network, torch.randn(2, 3)), torch.ones(2, 2))


def kernel(size=6):
    root = torch.randn(size, 3, dtype=torch.float64)
    return root @ root.T


@pytest.mark.parametrize("centred", [True, False])
def test_a_kernel_is_aligned_with_its_multiples(centred):
    one = kernel()
    assert kernel_alignment(one, 3 * one, centred=centred).item() == pytest.approx(1)
    assert kernel_alignment(one, torch.zeros_like(one), centred=centred) == 0


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_no_kernel_is_too_small_or_too_large_for_float32(scale):
    one, labels = kernel().float() * scale, torch.eye(6)[:, :2]
    assert kernel_alignment(one, one).item() == pytest.approx(1)
    assert kernel_distance(3 * one, one).item() == pytest.approx(2)
    for alignment, of in ((label_alignment, labels), (one_sided_alignment, labels[:, 0])):
        torch.testing.assert_close(alignment(one, of), alignment(one / scale, of))
    # Equal entries are 0 once they are centred, also where their mean is rounded.
    assert kernel_alignment(torch.full((6, 6), 0.1 * scale), one) == 0


def test_half_precision_has_a_rank():
    network, inputs = nn.Linear(3, 2, dtype=torch.bfloat16), torch.eye(3, dtype=torch.bfloat16)
    tangent = trace_ntk(network, inputs)
    assert tangent.dtype == torch.float32
    torch.testing.assert_close(effective_rank(tangent.bfloat16()), effective_rank(tangent))
    labels = torch.eye(3)[0]
    torch.testing.assert_close(one_sided_alignment(tangent.half(), labels.half()), one_sided_alignment(tangent, labels))


def test_centring_forgets_constants():
    one = kernel()
    assert kernel_alignment(one, one + 5).item() == pytest.approx(1)
    assert kernel_alignment(one, one + 5, centred=False).item() < 0.99


def test_distance_and_rank_at_their_limits():
    one = kernel()
    assert kernel_distance(one, one) == 0 and kernel_distance(one, torch.zeros_like(one)) == math.inf
    assert effective_rank(torch.eye(5)).item() == pytest.approx(5, rel=1e-5)
    assert effective_rank(torch.ones(5, 5)).item() == pytest.approx(1, rel=1e-4)


def test_linear_cka_ignores_rotations_and_scales_and_is_the_kernels_alignment():
    x, y = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    assert linear_cka(x, 4 * x @ rotation + 2).item() == pytest.approx(1)
    torch.testing.assert_close(linear_cka(x, y), kernel_alignment(x @ x.T, y @ y.T))
    assert linear_cka(x, torch.ones(20, 2)) == 0
    # Their mean is none of them, by its rounding.
    equal = torch.full((1000, 2), 0.1, dtype=torch.float64)
    assert linear_cka(equal, equal) == 0


class Called(Tiny):
    def forward(self, inputs):
        return self.network(inputs)


def test_the_monitor_starts_at_no_distance_goes_on_and_disturbs_nothing(tmp_path):
    def fit(callbacks, epochs=2, **options):
        module = Called()
        fitter = trainer(tmp_path, callbacks, max_epochs=epochs)
        fitter.fit(module, PerProcess(batches()), **options)
        return fitter, module

    monitor = EmpiricalNTK(samples=6, every_n_steps=4, folder=tmp_path)
    (_, module), (_, alone) = fit([monitor]), fit([])
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), alone.parameters(), strict=True))
    assert monitor.steps == [0, 4, 8] and monitor.values["distance"][0] == 0 < monitor.values["distance"][2]
    assert (tmp_path / "ntk.png").stat().st_size > 10_000
    fitter, _ = fit([EmpiricalNTK(samples=6, every_n_steps=4)], epochs=1)
    fitter.save_checkpoint(tmp_path / "half.ckpt")
    resumed = EmpiricalNTK(samples=6, every_n_steps=4)
    fit([resumed], ckpt_path=tmp_path / "half.ckpt")
    assert resumed.values == monitor.values
