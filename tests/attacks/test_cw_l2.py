import pytest
import torch
from torch import nn

from lightning_losses.attacks import CWL2
from tests.attacks.networks import batch, convolutional


def two_classes(seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 2)).double()
    inputs = 0.3 + 0.4 * torch.rand(6, 2, 2, 2, generator=generator, dtype=torch.float64)
    network[1].weight.data = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    # Some rows on either side of the boundary, all within reach.
    network[1].bias.data = torch.stack([-(inputs.flatten(1) @ w).mean() for w in network[1].weight])
    return network, inputs, network(inputs).argmax(1)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_on_a_linear_network_it_finds_the_distance_to_the_boundary(bounds):
    network, inputs, target = two_classes()
    attack = CWL2(c=1.0, steps=400, learning_rate=0.01, search_steps=6, bounds=bounds)
    attacked = attack(network, inputs, target)
    assert (network(attacked).argmax(1) != target).all()
    logits = network(inputs)
    normal = network[1].weight[1] - network[1].weight[0]
    distance = (logits[:, 1] - logits[:, 0]).abs() / normal.norm()
    torch.testing.assert_close((attacked - inputs).flatten(1).norm(dim=1), distance, rtol=2e-2, atol=1e-3)


def test_the_other_class_leads_by_kappa():
    network, inputs, target = two_classes()
    attacked = CWL2(c=20.0, kappa=0.5, steps=300, learning_rate=0.02)(network, inputs, target)
    logits = network(attacked)
    lead = logits.gather(1, 1 - target.unsqueeze(1)) - logits.gather(1, target.unsqueeze(1))
    assert (lead >= 0.5).all() and (lead < 0.8).all()


def test_rows_that_nothing_fools_and_rows_that_fool_already_come_back_as_they_are():
    network, (inputs, _) = convolutional(), batch()
    assert torch.equal(CWL2(c=1e-6, steps=3)(network, inputs, network.eval()(inputs).argmax(1)), inputs)
    wrong = (network(inputs).argmax(1) + 1) % 4
    # The first step has not moved, but for the inverse of tanh.
    torch.testing.assert_close(CWL2(c=1.0, steps=3)(network, inputs, wrong), inputs, rtol=0, atol=1e-5)


def test_a_row_does_not_depend_on_others_unless_all_stop_early():
    network, (inputs, _) = convolutional(torch.float64), batch(dtype=torch.float64)
    target = network.eval()(inputs).argmax(1)
    attack = CWL2(c=5.0, steps=20, learning_rate=0.05)
    whole = attack(network, inputs, target)
    torch.testing.assert_close(attack(network, inputs[4:5], target[4:5]), whole[4:5], rtol=0, atol=1e-12)
    passes = []
    network.register_forward_hook(lambda *given: passes.append(0))
    CWL2(c=1e-9, steps=200, learning_rate=5.0, early_stop=True)(network, inputs, target)
    assert len(passes) < 200


def test_inputs_at_the_ends_of_the_range_can_move():
    network, inputs, target = two_classes()
    network[1].bias.data = torch.zeros(2).double()
    inputs = inputs.round()
    target = network(inputs).argmax(1)
    attacked = CWL2(c=50.0, steps=200, learning_rate=0.05)(network, inputs, target)
    assert ((attacked - inputs).abs().flatten(1).amax(1) > 0.1).any() and attacked.min() >= 0 and attacked.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_weight_that_grows_in_vain_stays_finite(dtype):
    network, inputs, target = two_classes()
    network, inputs = network.to(dtype), inputs.to(dtype)
    network[1].weight.data *= 0
    network[1].bias.data = torch.tensor([1.0, 0.0], dtype=dtype)
    attack = CWL2(c=1.0, steps=2, search_steps=60)
    assert torch.equal(attack(network, inputs, torch.zeros_like(target)), inputs)
    with pytest.raises(ValueError, match="give two finite numbers, or None"):
        CWL2(bounds=(0.0, torch.inf))


def test_nan_is_said():
    network, inputs, target = two_classes()
    with pytest.raises(ValueError, match="cw_l2: .* hold NaN in 1 of 6 rows"):
        CWL2(steps=3)(lambda x: network(x).masked_fill(torch.arange(6).unsqueeze(1) == 2, torch.nan), inputs, target)
    with pytest.raises(ValueError, match="cw_l2: the network's logits have no gradient"):
        CWL2(steps=3)(lambda x: network(x.detach()), inputs, target)
