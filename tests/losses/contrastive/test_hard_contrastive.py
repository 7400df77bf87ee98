import torch
import torch.nn.functional as F

from lightning_losses import ClipContrastive, HardContrastive


def test_the_partner_is_picked_among_the_hardest():
    a, b = torch.randn(2, 6, 4, dtype=torch.float64)
    queue = torch.randn(5, 4, dtype=torch.float64)
    unit, columns = F.normalize(a, dim=-1), F.normalize(torch.cat([b, queue]), dim=-1)
    values = []
    for i, row in enumerate(unit @ columns.T / 0.3):
        negatives = torch.cat([row[:i], row[i + 1 :]]).sort(descending=True).values[:3]
        values.append(torch.cat([row[i : i + 1], negatives]).logsumexp(0) - row[i])
    torch.testing.assert_close(HardContrastive(0.3, 3)(a, b, queue), torch.stack(values).mean())


def test_with_all_negatives_it_is_one_direction_of_clip():
    a, b = torch.randn(2, 6, 4, dtype=torch.float64)
    for hardest in (None, 5, 100):
        value = HardContrastive(0.3, hardest)(a, b)
        torch.testing.assert_close(value, ClipContrastive(0.3, direction="forward")(a, b))


def test_the_simple_form_pushes_all_alike():
    a, b = torch.randn(2, 6, 4, dtype=torch.float64)
    s = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
    loss = HardContrastive(form="simple", weight_of_negatives=0.5)
    own = s.diagonal()
    torch.testing.assert_close(loss(a, b), (-own + 0.5 * (s.sum(dim=1) - own)).mean())
