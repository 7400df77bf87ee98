import torch

from lightning_losses.losses import MART, CrossEntropy

CLEAN, ATTACKED = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 2, 1, 0, 2])
ROWS = torch.arange(5)


def test_value_from_the_definition():
    p, q = CLEAN.softmax(dim=-1), ATTACKED.softmax(dim=-1)
    others = q.clone()
    others[ROWS, TARGET] = -1
    margin = -(1.0001 - others.max(dim=-1).values).log()
    divergence = (p * (p / q).log()).sum(dim=-1)
    expected = -q[ROWS, TARGET].log() + margin + 4 * (1 - p[ROWS, TARGET]) * divergence
    torch.testing.assert_close(MART(beta=4.0, reduction="none")(CLEAN, ATTACKED, TARGET), expected, rtol=1e-5, atol=0)


def test_the_margin_is_beside_the_cross_entropy_of_attacked_inputs():
    margin = MART(beta=0.0)(CLEAN, ATTACKED, TARGET) - CrossEntropy()(ATTACKED, TARGET)
    strongest = ATTACKED.softmax(dim=-1).scatter(1, TARGET.unsqueeze(1), 0).max(dim=1).values
    torch.testing.assert_close(margin, -torch.log1p(-strongest).mean(), rtol=1e-3, atol=0)


def test_the_weight_of_clean_mistakes_has_a_gradient():
    clean = CLEAN.clone().requires_grad_()
    p, log_q = clean.softmax(dim=-1), ATTACKED.log_softmax(dim=-1)
    divergence = (p * (p.log() - log_q)).sum(dim=-1)
    expected = torch.autograd.grad(((1 - p[ROWS, TARGET]) * divergence).mean(), clean)[0]
    found = torch.autograd.grad(MART(beta=1.0)(clean, ATTACKED, TARGET), clean)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_certain_and_wrong_predictions_are_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = MART()(logits, logits.flip(1), torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite() and gradient.isfinite().all()
