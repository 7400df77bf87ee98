"""Mixtures of domains: who is mixed with whom, what is ignored, and what a step offers."""

import pytest
import torch
from torch import nn

from lightning_losses import CrossEntropy, Objective, Term
from lightning_losses.mixins.domain_mixup import mix_domains
from lightning_losses.modules.domain_mixup_classifier import DomainMixupClassifier

MIXTURES = {"logits": "mixup_logits", "target": "mixup_target"}
# Inputs tell who they are.
INPUTS = torch.arange(7.0).unsqueeze(1) * 100
DOMAIN = torch.tensor([0, 2, 0, 2, 2, 0, 0])
TARGET = torch.tensor([0, 1, 2, 0, 1, -100, 2])


def mixed(order=(0, 1, 2), shares=(0.9, 0.7, 0.5), **others):
    given = {"inputs": INPUTS, "target": TARGET, "domain": DOMAIN, **others}
    return mix_domains(*given.values(), 3, torch.tensor(order), torch.tensor(shares))


def test_the_kth_sample_of_a_domain_meets_the_kth_of_the_next_that_is_there():
    inputs, target = mixed()
    # Domain 1 is not there: 0 and 2 meet, with the first two shares. Sample 5 is ignored, and 6 is the third.
    partners = torch.tensor([1, 0, 3, 2, 6, 5, 4])
    share = torch.tensor([0.9, 0.7, 0.9, 0.7, 0.7, 1.0, 0.9]).unsqueeze(1)
    torch.testing.assert_close(inputs, share * INPUTS + (1 - share) * INPUTS[partners])
    torch.testing.assert_close(target[0], torch.tensor([0.9, 0.1, 0.0]))
    torch.testing.assert_close(target[4], torch.tensor([0.0, 0.7, 0.3]))
    assert target.sum(dim=1).tolist() == pytest.approx([1, 1, 1, 1, 1, 0, 1])


def test_a_sample_without_a_partner_has_no_label_and_stays():
    inputs, target = mixed(domain=torch.tensor([0, 0, 0, 0, 0, 2, 2]))
    # The only kept sample of domain 2 meets the first one of domain 0.
    assert (target.sum(dim=1) > 0).tolist() == [True, False, False, False, False, False, True]
    assert torch.equal(inputs[1:5], INPUTS[1:5])


def test_a_single_domain_is_left_as_it_is():
    inputs, target = mixed(domain=torch.ones_like(DOMAIN))
    torch.testing.assert_close(inputs, INPUTS)
    assert torch.equal(target.argmax(dim=1)[TARGET >= 0], TARGET[TARGET >= 0])


def module(alpha=0.2):
    terms = {"mixup": Term(CrossEntropy(), inputs=MIXTURES)}
    return DomainMixupClassifier(3, alpha, network=nn.Linear(1, 3), objective=Objective(terms), num_classes=3)


def test_a_step_draws_by_torchs_seed_and_trains_the_network():
    values = []
    network = module()
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(network.training_step({"inputs": INPUTS / 100, "target": TARGET, "domain": DOMAIN}, 0)["loss"])
    assert values[0] == values[1] != values[2]
    values[0].backward()
    assert network.network.weight.grad.abs().sum() > 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="mixtures of domains need 'domain'; the step offered"):
        module().training_step({"inputs": INPUTS, "target": TARGET}, 0)
    with pytest.raises(ValueError, match="^DomainMixupClassifier: mixup_alpha=0.0 came"):
        module(alpha=0.0)
    with pytest.raises(ValueError, match="^mix_domains: domain 2 came with num_domains=2"):
        mixed(order=(0, 1), shares=(0.5, 0.5))
