import torch
import torch.nn.functional as F

from lightning_losses.losses import VREx
from tests.losses.domains.batches import DOMAIN, LOGITS, ROWS, TARGET, without


def risks(logits, domains):
    return torch.stack([F.cross_entropy(logits[ROWS[domain]], TARGET[ROWS[domain]]) for domain in domains])


def test_value_and_weights_of_the_risks_follow_the_definition():
    leaf = LOGITS.clone().requires_grad_()
    value = VREx(3)(leaf, TARGET, DOMAIN)
    own = risks(leaf, range(3))
    torch.testing.assert_close(value, own.var(correction=0))
    weighed = (2 / 3 * (own - own.mean()).detach() * own).sum()
    torch.testing.assert_close(*(torch.autograd.grad(one, leaf)[0] for one in (value, weighed)))


def test_a_domain_that_is_not_there_is_left_out_and_one_alone_has_no_variance():
    rows = without(1)
    value = VREx(3)(LOGITS[rows], TARGET[rows], DOMAIN[rows])
    torch.testing.assert_close(value, risks(LOGITS, (0, 2)).var(correction=0))
    assert VREx(3)(LOGITS[ROWS[2]], TARGET[ROWS[2]], DOMAIN[ROWS[2]]) == 0


def test_the_same_samples_in_every_domain_have_equal_risks():
    twice = torch.cat([LOGITS, LOGITS]), torch.cat([TARGET, TARGET])
    assert VREx(2)(*twice, torch.arange(22) // 11) == 0
