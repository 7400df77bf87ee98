import torch

from lightning_losses.losses import TRADES, CrossEntropy

CLEAN, ATTACKED = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 2, 1, -100, 2])


def test_value_from_the_definition():
    p, q, kept = CLEAN.softmax(dim=-1), ATTACKED.softmax(dim=-1), TARGET != -100
    divergence = (p * (p / q).log()).sum(dim=-1)
    label = p[torch.arange(5), TARGET.clamp(min=0)]
    expected = torch.where(kept, -label.log() + 3 * divergence, 0.0)
    torch.testing.assert_close(TRADES(beta=3.0, reduction="none")(CLEAN, ATTACKED, TARGET), expected)


def test_without_an_attack_it_is_cross_entropy():
    torch.testing.assert_close(TRADES()(CLEAN, CLEAN, TARGET), CrossEntropy()(CLEAN, TARGET))
    torch.testing.assert_close(TRADES(beta=0.0)(CLEAN, ATTACKED, TARGET), CrossEntropy()(CLEAN, TARGET))


def test_both_logits_learn_from_the_divergence():
    leaves = [logits.clone().requires_grad_() for logits in (CLEAN, ATTACKED)]
    both = torch.autograd.grad(TRADES(beta=1.0)(*leaves, TARGET), leaves)
    alone = torch.autograd.grad(CrossEntropy()(leaves[0], TARGET), leaves[0])[0]
    assert not torch.allclose(both[0], alone)
    p, q = CLEAN.softmax(dim=-1), ATTACKED.softmax(dim=-1)
    torch.testing.assert_close(both[1], torch.where((TARGET != -100).unsqueeze(-1), (q - p) / 4, 0.0))
