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
    """Adds up two branches, or bends their sum."""

    def __init__(self, additive=True, **options):
        super().__init__()
        torch.manual_seed(0)
        self.sound, self.image = nn.Linear(4, 3), nn.Linear(3, 3)
        self.after = nn.Identity() if additive else nn.Sequential(nn.Tanh(), nn.Dropout(0.5))
        self.modulation = AdaptiveGradientModulation(**options)

    def forward(self, first, second):
        return self.after(self.sound(first) + self.image(second))


def contributions(network):
    both, (first, second) = network(FIRST, SECOND), one_modality_at_a_time(network, FIRST, SECOND)
    return both, first, second, (both - second + first) / 2, (both - first + second) / 2


def step(network):
    """The gradients of a step, by parameter."""
    logits, first, second, *_ = contributions(network)
    modulated = network.modulation(logits, first, second, TARGET)
    assert torch.equal(modulated, logits)
    gradients = torch.autograd.grad(F.cross_entropy(modulated, TARGET), list(network.parameters()))
    return dict(zip(dict(network.named_parameters()), gradients, strict=True))


def test_a_branch_gets_its_coefficient_from_scores_and_their_running_means():
    network = Two(alpha=0.7)
    plain = step(network.eval())
    network.train().modulation.running_scores.copy_(torch.tensor([1.5, 0.9]))
    network.modulation.updates.fill_(3)
    s, t = (F.cross_entropy(share, TARGET).item() for share in contributions(network)[3:])
    gradients = step(network)
    ahead = math.exp(0.9 - 1.5) - math.exp(t - s), math.exp(1.5 - 0.9) - math.exp(s - t)
    for name, difference in zip(("sound.weight", "image.weight"), ahead, strict=True):
        torch.testing.assert_close(gradients[name], math.exp(0.7 * difference) * plain[name])
    running = network.modulation.running_scores.tolist()
    assert running == pytest.approx([1.5 * 3 / 4 + s / 4, 0.9 * 3 / 4 + t / 4], rel=1e-5)


def test_any_network_has_the_gradient_of_both_contributions_scaled():
    torch.manual_seed(1)
    network = Two(additive=False)
    both, first, second, one, other = contributions(network)
    coefficients = AdaptiveGradientModulation().coefficients(one, other, TARGET)
    slope = torch.autograd.grad(F.cross_entropy(both, TARGET), both, retain_graph=True)[0]
    parameters = list(network.parameters())
    wanted = torch.autograd.grad(((coefficients[0] * one + coefficients[1] * other) * slope).sum(), parameters,
                                 retain_graph=True)  # fmt: skip
    modulated = network.modulation(both, first, second, TARGET)
    torch.testing.assert_close(torch.autograd.grad(F.cross_entropy(modulated, TARGET), parameters), wanted)
    assert abs(coefficients[0] - coefficients[1]) > 1e-3


def test_a_masked_class_stays_masked_and_takes_nothing_from_the_others():
    network = Two(alpha=0.7)
    logits, first, second, *_ = contributions(network)
    target = TARGET.clamp(max=1)
    given = [each[:, :2] for each in (logits, first, second)]
    masked = [F.pad(each, (0, 1), value=-torch.inf) for each in given]
    values, gradients = [], []
    for modulation, batch in ((AdaptiveGradientModulation(), given), (AdaptiveGradientModulation(), masked)):
        modulated = modulation(*batch, target)
        values.append(modulated)
        gradients.append(torch.autograd.grad(F.cross_entropy(modulated, target), first, retain_graph=True)[0])
    assert torch.equal(values[1], masked[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_what_is_ahead_is_slowed_and_equals_are_left_alone():
    modulation, zeros, right = AdaptiveGradientModulation(), torch.zeros(6, 3), 5.0 * torch.eye(3)[TARGET]
    assert modulation.coefficients(right, right, TARGET).tolist() == [1.0, 1.0]
    slowed, hastened = modulation.coefficients(right, zeros, TARGET).tolist()
    assert slowed < 1 < hastened
    modulation.running_scores.copy_(torch.tensor([0.0, 18.0]))
    assert modulation.coefficients(right, right, TARGET)[0].item() == pytest.approx(math.exp(10.0))


def test_samples_without_a_target_and_steps_without_a_number_do_not_count():
    given = [torch.randn(6, 3, generator=GENERATOR) for _ in range(2)]
    ignored = TARGET.masked_fill(torch.arange(6) < 2, -100)
    some, fewer, none = (AdaptiveGradientModulation() for _ in range(3))
    wanted = fewer.coefficients(*(rows[2:] for rows in given), TARGET[2:])
    torch.testing.assert_close(some.coefficients(*given, ignored), wanted)
    torch.testing.assert_close(some.running_scores, fewer.running_scores)
    assert none.coefficients(*given, torch.full_like(TARGET, -100)).tolist() == [1.0, 1.0]
    assert none.coefficients(torch.full((6, 3), torch.nan), given[1], TARGET).tolist() == [1.0, 1.0]
    assert int(none.updates) == 0 and none.running_scores.tolist() == [0.0, 0.0]


def test_its_state_is_saved_and_stays_out_of_half_precision():
    network, fresh = Two(), Two()
    step(network)
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh.modulation.running_scores, network.modulation.running_scores)
    torch.testing.assert_close(step(fresh), step(network), rtol=0, atol=0)
    before = network.modulation.running_scores.clone()
    assert int(network.modulation.updates) == 2
    assert torch.equal(network.bfloat16().modulation.running_scores, before)


def test_one_modality_at_a_time_leaves_the_modes_alone():
    network = Two(additive=False)
    first, _ = one_modality_at_a_time(network, FIRST, SECOND)
    assert network.training and network.after[1].training and first.requires_grad
    torch.testing.assert_close(first, network.eval()(FIRST, torch.zeros(6, 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AdaptiveGradientModulation(-1.0), "alpha=-1.0 came; give a number at least 0."),
        (
            lambda: AdaptiveGradientModulation()(FIRST, FIRST, SECOND, TARGET),
            "only_second of shape [6, 3] came with logits of shape [6, 4]; give the logits of the same samples.",
        ),
        (
            lambda: AdaptiveGradientModulation()(SECOND, SECOND, SECOND, SECOND.softmax(dim=1)),
            "a target of probabilities came; give int64 class indices.",
        ),
    ],
    ids=["alpha", "shape", "soft"],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == f"adaptive_gradient_modulation: {message}"
