import torch

from lightning_losses.losses import Hill
from tests.losses.strategies import gradient


def test_value_from_the_definition():
    logits = torch.linspace(-3, 3, 6, dtype=torch.float64).reshape(2, 3)
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 1]], dtype=torch.float64)
    has, lacks = torch.sigmoid(logits - 0.5), torch.sigmoid(logits)
    expected = torch.where(labels == 1, -((1 - has) ** 3) * has.log(), 2 * lacks**2 - lacks**3).sum()
    torch.testing.assert_close(Hill(lam=2.0, margin=0.5, gamma=3.0, reduction="sum")(logits, labels), expected)


def test_a_label_that_is_lacking_but_sure_is_let_go():
    """The slope by p is p (2λ - 3p): 0 at p = 2λ/3, and downhill beyond."""
    lam = 1.2
    logits = torch.logit(torch.tensor([0.6, 0.8, 0.9], dtype=torch.float64)).unsqueeze(-1)
    slope = gradient(Hill(lam=lam, reduction="sum"), logits, torch.zeros(3, 1)).squeeze(-1)
    assert slope[0] > 0 and abs(slope[1]) < 1e-12 and slope[2] < 0
