import pytest
import torch
import torch.nn.functional as F

from lightning_losses import CrossEntropy, Objective
from lightning_losses.losses import Fishr
from lightning_losses.modules import Classifier
from tests.losses.domains.batches import DOMAIN, FEATURES, ROWS, TARGET, without

WEIGHT = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
LOGITS = FEATURES @ WEIGHT.mT


def variances(rows):
    """By autograd, sample by sample."""
    samples = []
    for row in rows:
        weight = WEIGHT.clone().requires_grad_()
        bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        value = F.cross_entropy(weight @ FEATURES[row] + bias, TARGET[row])
        slope, shift = torch.autograd.grad(value, (weight, bias))
        samples.append(torch.cat([slope, shift.unsqueeze(1)], dim=1).flatten())
    return torch.stack(samples).var(dim=0, correction=0)


def penalty(values):
    return values.var(dim=0, correction=0).mean()


def fishr(**options):
    return Fishr(3, num_classes=4, feature_dim=3, **options).double()


def test_value_and_averages_follow_the_definition():
    loss, average = fishr(ema=0.9), torch.zeros(3, 16, dtype=torch.float64)
    for rows in ([0, 1, 2], [0, 2]):
        chosen = torch.cat([ROWS[domain] for domain in rows])
        given = LOGITS[chosen], TARGET[chosen], DOMAIN[chosen], FEATURES[chosen]
        for domain in rows:
            average[domain] = 0.9 * average[domain] + 0.1 * variances(ROWS[domain])
        torch.testing.assert_close(loss(*given), penalty(average[rows] / 0.1))
        loss.after_step(**dict(zip(("logits", "target", "domain", "features"), given, strict=True)))
        torch.testing.assert_close(loss.moving_variance, average)


def test_the_first_gradient_does_not_depend_on_the_average():
    found = []
    for ema in (0.0, 0.95):
        leaf = LOGITS.clone().requires_grad_()
        found.append(torch.autograd.grad(fishr(ema=ema)(leaf, TARGET, DOMAIN, FEATURES), leaf)[0])
    torch.testing.assert_close(*found)


def test_equal_domains_have_no_penalty_and_numbers_that_are_none_leave_the_averages():
    loss = Fishr(2, num_classes=4, feature_dim=3).double()
    twice = [torch.cat([one, one]) for one in (LOGITS, TARGET, FEATURES)]
    assert loss(twice[0], twice[1], torch.arange(22) // 11, twice[2]) < 1e-30
    loss.after_step(logits=LOGITS * torch.nan, target=TARGET, domain=DOMAIN % 2, features=FEATURES)
    assert not loss.moving_variance.any()


def test_a_domain_that_is_not_there_is_left_out():
    rows = without(0)
    value = fishr()(LOGITS[rows], TARGET[rows], DOMAIN[rows], FEATURES[rows])
    torch.testing.assert_close(value, penalty(torch.stack([variances(ROWS[1]), variances(ROWS[2])])))


def test_a_module_taps_the_heads_input_and_renews_the_averages():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 4))
    objective = Objective({"ce": CrossEntropy(), "fishr": Fishr(3, num_classes=4, feature_dim=3)})
    module = Classifier(network, objective, num_classes=4, feature_layer="1")
    batch = {"inputs": FEATURES.float(), "target": TARGET, "domain": DOMAIN}
    module.training_step(batch, 0)
    with torch.no_grad():
        features = network[:2](batch["inputs"])
        expected = Fishr(3, num_classes=4, feature_dim=3)
        expected.after_step(logits=network(batch["inputs"]), target=TARGET, domain=DOMAIN, features=features)
    renewed = objective.terms["fishr"].loss.moving_variance
    torch.testing.assert_close(renewed, expected.moving_variance)
    assert renewed.abs().sum() > 0


def test_features_that_are_not_the_heads_input_are_refused():
    with pytest.raises(ValueError, match=r"features of shape \[11, 2\] came with num_classes=4 and feature_dim=3"):
        fishr()(LOGITS, TARGET, DOMAIN, FEATURES[:, :2])
