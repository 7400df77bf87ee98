import torch
import torch.nn.functional as F

from lightning_losses import SigmoidContrastive


def test_each_pair_is_told_to_match_or_not():
    a, b = torch.randn(2, 6, 4, dtype=torch.float64)
    loss = SigmoidContrastive(0.2, bias=-1.5).double()
    s = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
    signs = 2 * torch.eye(6) - 1
    expected = -F.logsigmoid(signs * (5 * s - 1.5)).sum() / 6
    value = loss(a, b)
    torch.testing.assert_close(value, expected)
    by_scale, by_bias = torch.autograd.grad(value, (loss.log_scale, loss.offset))
    slope = -signs * torch.sigmoid(-signs * (5 * s - 1.5)) / 6
    torch.testing.assert_close(by_bias[0], slope.sum())
    torch.testing.assert_close(by_scale[0], (slope * 5 * s).sum())
