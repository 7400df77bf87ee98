import math

import torch

from lightning_losses.losses import RouterZLoss, ZLoss

LOGITS = 2 * torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_value_from_the_definition_and_that_of_z_loss():
    each = [[math.log(sum(map(math.exp, row))) ** 2 for row in rows] for rows in LOGITS.tolist()]
    torch.testing.assert_close(RouterZLoss(reduction="none")(LOGITS), torch.tensor(each, dtype=torch.float64))
    torch.testing.assert_close(RouterZLoss()(LOGITS), ZLoss(coefficient=1.0)(LOGITS))


def test_masked_tokens_leave_in_every_layer():
    mask, logits = torch.tensor([True, False, True]), LOGITS.clone()
    logits[1] = torch.inf
    loss = RouterZLoss()
    torch.testing.assert_close(loss(logits, mask), loss(LOGITS[mask]), rtol=1e-12, atol=0)
    rows = RouterZLoss(reduction="none")(logits, mask)
    assert rows.shape == (3, 2) and bool((rows[1] == 0).all())
    assert loss(logits, torch.zeros(3)).item() == 0
