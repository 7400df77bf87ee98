import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses.networks.gradient_modulation import AdaptiveGradientModulation, one_modality_at_a_time

GENERATOR = torch.Generator().manual_seed(0)
FIRST, SECOND = torch.randn(6, 4, generator=GENERATOR), torch.randn(6, 3, generator=GENERATOR)
TARGET = torch.tensor([0, 1, 2, 0, 1, 2])


class Two(nn.Module):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.sound, self.image, self.head = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, 3)
        self.dropout = nn.Dropout(0.5)
        self.modulation = AdaptiveGradientModulation(**options)

    def forward(self, first, second):
        sound, image = self.modulation(self.sound(first), self.image(second))
        return self.head((sound + image).tanh())


def step(network, measured=True, target=TARGET):
    logits = network(FIRST, SECOND)
    coefficients = torch.ones(2)
    if measured:
        alone = one_modality_at_a_time(network, FIRST, SECOND)
        coefficients = network.modulation.measure(logits, *alone, target)
    network.zero_grad()
    F.cross_entropy(logits, TARGET).backward()
    return coefficients, {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def scores(network):
    with torch.no_grad():
        both, first, second = network(FIRST, SECOND), network(FIRST, 0 * SECOND), network(0 * FIRST, SECOND)
    shares = (both - second + first) / 2, (both - first + second) / 2
    return [F.cross_entropy(share, TARGET).item() for share in shares]


def test_each_branch_gets_its_coefficient_and_the_head_its_gradient():
    network = Two(alpha=0.7)
    network.modulation.running_scores.copy_(torch.tensor([1.5, 0.9]))
    network.modulation.updates.fill_(3)
    (s, t), plain = scores(network), step(network, measured=False)[1]
    coefficients, gradients = step(network)
    ahead = math.exp(0.9 - 1.5) - math.exp(t - s), math.exp(1.5 - 0.9) - math.exp(s - t)
    assert coefficients.tolist() == pytest.approx([math.exp(0.7 * each) for each in ahead], rel=1e-5)
    for name, gradient in gradients.items():
        factor = {"sound": coefficients[0], "image": coefficients[1]}.get(name.split(".")[0], 1.0)
        torch.testing.assert_close(gradient, factor * plain[name])
    running = network.modulation.running_scores.tolist()
    assert running == pytest.approx([1.5 * 3 / 4 + s / 4, 0.9 * 3 / 4 + t / 4], rel=1e-5)
    # A step that isn't measured has its own gradients, not the coefficients of the one before.
    torch.testing.assert_close(step(network, measured=False)[1], plain)


def test_what_is_ahead_is_slowed_and_equals_are_left_alone():
    modulation, zeros, right = AdaptiveGradientModulation(), torch.zeros(6, 3), 5.0 * torch.eye(3)[TARGET]
    assert modulation.measure(right, right / 2, right / 2, TARGET).tolist() == [1.0, 1.0]
    slowed, hastened = modulation.measure(right, right, zeros, TARGET).tolist()
    assert slowed < 1 < hastened
    modulation.running_scores.copy_(torch.tensor([0.0, 18.0]))
    assert modulation.measure(right, right / 2, right / 2, TARGET)[0].item() == pytest.approx(100.0)


def test_samples_without_a_target_and_steps_without_a_number_do_not_count():
    given = [torch.randn(6, 3, generator=GENERATOR) for _ in range(3)]
    ignored = TARGET.masked_fill(torch.arange(6) < 2, -100)
    some, fewer, none = (AdaptiveGradientModulation() for _ in range(3))
    torch.testing.assert_close(some.measure(*given, ignored), fewer.measure(*(rows[2:] for rows in given), TARGET[2:]))
    torch.testing.assert_close(some.running_scores, fewer.running_scores)
    assert none.measure(*given, torch.full_like(TARGET, -100)).tolist() == [1.0, 1.0]
    assert none.measure(torch.full((6, 3), torch.nan), *given[1:], TARGET).tolist() == [1.0, 1.0]
    assert int(none.updates) == 0 and none.running_scores.tolist() == [0.0, 0.0]


def test_its_state_is_saved_and_stays_out_of_half_precision():
    network = Two()
    step(network)
    fresh = Two()
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(step(fresh)[0], step(network)[0])
    before = network.modulation.running_scores.clone()
    assert torch.equal(network.bfloat16().modulation.running_scores, before)


def test_one_modality_at_a_time_leaves_the_modes_alone():
    network = nn.ModuleList([Two().train(), nn.Dropout()])[0]
    first, _ = one_modality_at_a_time(network, FIRST, SECOND)
    assert network.training and network.dropout.training and not first.requires_grad
    torch.testing.assert_close(first, network(FIRST, torch.zeros(6, 3)).detach())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AdaptiveGradientModulation(-1.0), "alpha=-1.0 came; give a number at least 0."),
        (
            lambda: AdaptiveGradientModulation().measure(FIRST, FIRST, SECOND, TARGET),
            "only_second of shape [6, 3] came with logits of shape [6, 4]; give the logits of the same samples.",
        ),
        (
            lambda: AdaptiveGradientModulation().measure(SECOND, SECOND, SECOND, SECOND.softmax(dim=1)),
            "a target of probabilities came; give int64 class indices.",
        ),
    ],
    ids=["alpha", "shape", "soft"],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == f"adaptive_gradient_modulation: {message}"
