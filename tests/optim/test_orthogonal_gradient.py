"""The orthogonal gradient: its identities, its extremes, and the optimizer that uses it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_losses.optim.orthogonal_gradient import orthogonalize_gradients_, with_orthogonal_gradients

SHAPES = [(5, 4), (3,), (2, 3, 4)]


def pairs(dtype=torch.float64):
    return [torch.randn(s, dtype=dtype) for s in SHAPES], [torch.randn(s, dtype=dtype) for s in SHAPES]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def projected(weights, gradients, **options):
    gradients = [gradient.clone() for gradient in gradients]
    orthogonalize_gradients_(weights, gradients, **options)
    return gradients


@given(seed=st.integers(0, 1000), rescale=st.booleans(), scope=st.sampled_from(["tensor", "model"]))
def test_the_result_is_orthogonal_and_points_downhill(seed, rescale, scope):
    torch.manual_seed(seed)
    weights, gradients = pairs()
    result = projected(weights, gradients, rescale=rescale, scope=scope)
    parts = [weights, gradients, result]
    groups = zip(*parts, strict=True) if scope == "tensor" else [tuple(map(flat, parts))]
    for w, g, out in groups:
        assert abs((w * out).sum()) <= 1e-10 * w.norm() * g.norm()
        assert (g * out).sum() >= 0
        if rescale:
            torch.testing.assert_close(out.norm(), g.norm())
        else:
            torch.testing.assert_close(out, g - (w * g).sum() / (w * w).sum() * w)


def test_projecting_twice_changes_nothing():
    weights, gradients = pairs()
    once = projected(weights, gradients)
    torch.testing.assert_close(projected(weights, once), once)


def test_an_orthogonal_gradient_stays():
    weight, gradient = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
    assert projected([weight], [gradient])[0].tolist() == [0, 3]


def test_the_model_scope_is_one_projection_of_the_concatenation():
    weights, gradients = pairs()
    together = projected([flat(weights)], [flat(gradients)])[0]
    torch.testing.assert_close(flat(projected(weights, gradients, scope="model")), together)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 100_000])
def test_a_gradient_parallel_to_the_weights_becomes_zero(dtype, size):
    weight = torch.randn(size).to(dtype)
    assert not projected([weight], [-0.3 * weight])[0].any()


@pytest.mark.parametrize("size", [1e-30, 1e25])
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_a_gradient_of_any_size_is_projected(size, scope):
    weights, gradients = pairs(torch.float32)
    result = projected(weights, [size * gradient for gradient in gradients], scope=scope)
    want = projected(weights, gradients, scope=scope)
    torch.testing.assert_close([out / size for out in result], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_zero_weights_and_zero_gradients_stay(scope):
    gradient = torch.randn(4)
    assert torch.equal(projected([torch.zeros(4)], [gradient], scope=scope)[0], gradient)
    assert not projected([torch.randn(4)], [torch.zeros(4)], scope=scope)[0].any()


def test_a_tensor_of_one_element_stays_when_projected_on_its_own():
    assert projected([torch.tensor([2.0])], [torch.tensor([3.0])])[0].tolist() == [3.0]


def test_a_step_of_sgd_leaves_the_norm_to_first_order():
    network = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    inputs, target = torch.randn(16, 4, dtype=torch.float64), torch.randint(3, (16,))

    def growth(lr):
        copy = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
        copy.load_state_dict(network.state_dict())
        optimizer = with_orthogonal_gradients(torch.optim.SGD(copy.parameters(), lr=lr))
        nn.functional.cross_entropy(copy(inputs), target).backward()
        before = flat(copy.parameters()).square().sum()
        optimizer.step()
        return (flat(copy.parameters()).square().sum() - before).item()

    # Second order: a tenth of the learning rate is a hundredth of the growth.
    assert growth(1e-2) > 0
    assert growth(1e-3) / growth(1e-2) == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize("problem", ["number", "shape", "scope", "sparse"])
def test_what_does_not_fit_is_refused(problem):
    weights, gradients, options = [torch.ones(3)], [torch.ones(3)], {}
    if problem == "number":
        gradients = []
    elif problem == "shape":
        gradients = [torch.ones(2)]
    elif problem == "scope":
        options = {"scope": "layer"}
    else:
        gradients = [torch.ones(3).to_sparse()]
    with pytest.raises(ValueError, match="orthogonal_gradient"):
        orthogonalize_gradients_(weights, gradients, **options)


def regression(optimizer_of, closure=False, steps=5, state=None):
    torch.manual_seed(1)
    network = nn.Linear(3, 2).double()
    optimizer = optimizer_of(network.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    inputs, target = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])

    def evaluate():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(inputs), target)
        loss.backward()
        return loss

    for _ in range(steps):
        if closure == "positional":
            optimizer.step(evaluate)
        elif closure == "keyword":
            optimizer.step(closure=evaluate)
        else:
            evaluate()
            optimizer.step()
        scheduler.step()
    states = {"network": network, "optimizer": optimizer, "scheduler": scheduler}
    return {name: stateful.state_dict() for name, stateful in states.items()}


def perp_adamw(parameters):
    return with_orthogonal_gradients(torch.optim.AdamW(parameters, lr=0.1, betas=(0.8, 0.95), eps=1e-6))


@pytest.mark.parametrize("closure", ["positional", "keyword"])
def test_a_closure_gives_what_a_bare_step_gives(closure):
    assert_same(regression(perp_adamw, closure=closure), regression(perp_adamw))


def assert_same(left, right):
    for name, tensor in left["network"].items():
        assert torch.equal(tensor, right["network"][name])


def test_the_optimizer_differs_from_its_base():
    base = regression(lambda parameters: torch.optim.AdamW(parameters, lr=0.1, betas=(0.8, 0.95), eps=1e-6))
    assert not torch.allclose(base["network"]["weight"], regression(perp_adamw)["network"]["weight"])


def test_schedulers_betas_and_state_survive_saving():
    half = regression(perp_adamw, steps=3)
    group = half["optimizer"]["param_groups"][0]
    assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.95), 1e-6, 0.05)
    resumed = regression(perp_adamw, steps=2, state=half)
    whole = regression(perp_adamw, steps=5)
    assert_same(resumed, whole)
    assert resumed["optimizer"]["param_groups"][0]["lr"] == whole["optimizer"]["param_groups"][0]["lr"] == 0.025


def test_unselected_parameters_and_parameters_without_gradient_are_left_alone():
    weight, bias, idle = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = with_orthogonal_gradients(
        torch.optim.SGD([weight, bias, idle], lr=1.0), select=lambda parameter: parameter is not bias
    )
    weight.grad, bias.grad = torch.tensor([2.0, 0.0]), torch.tensor([2.0, 0.0])
    optimizer.step()
    assert bias.tolist() == [-1, 1] and idle.tolist() == [1, 1]
    # (2, 0) less its part along (1, 1) is (1, -1), then rescaled to norm 2.
    torch.testing.assert_close(weight.detach(), 1 - 2**0.5 * torch.tensor([1.0, -1.0]))


def test_wrapping_twice_is_refused_until_removed():
    optimizer = with_orthogonal_gradients(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=1.0))
    with pytest.raises(ValueError, match="already"):
        with_orthogonal_gradients(optimizer)


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_gradients_of_any_scale_keep_their_length(scale):
    weights, gradients = pairs(torch.float32)
    for out, gradient in zip(projected(weights, [g * scale for g in gradients]), gradients, strict=True):
        torch.testing.assert_close(out.double().norm() / scale, gradient.double().norm(), rtol=1e-5, atol=0)
