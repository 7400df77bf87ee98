import pytest
import torch
from torch import nn

from lightning_losses.networks.fixed_reweighting_head import FixedReweightingHead


def test_a_coordinate_is_divided_once_for_each_before_it():
    features = torch.randn(2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(FixedReweightingHead(1.5)(features), features / torch.tensor([1, 1.5, 2.25, 3.375]))
    assert torch.equal(FixedReweightingHead(1.0)(features), features)


def test_half_precision_is_widened_and_nothing_is_trained():
    head = FixedReweightingHead(1.05)
    scaled = head(torch.ones(1, 512, dtype=torch.float16))
    # In half precision the last factor would be 0.
    assert scaled.dtype == torch.float32 and 0 < scaled[0, -1] < 2e-11
    assert not list(head.parameters()) and not head.state_dict()


def test_features_before_it_weigh_more_equally_than_after_it():
    """The paper's claim, of a linear encoder: contrast of two views whose coordinates differ in strength."""
    random = torch.Generator().manual_seed(0)
    strength = torch.tensor([3.0, 1.5, 0.75, 0.4])
    encoder, head = nn.Linear(4, 4, bias=False), FixedReweightingHead(3.0)
    with torch.no_grad():
        encoder.weight.copy_(torch.eye(4))
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.05)
    for _ in range(150):
        signal = strength * torch.randn(64, 4, generator=random).sign()
        z = [head(encoder(signal + 0.1 * torch.randn(64, 4, generator=random))) for _ in range(2)]
        scores = z[0] @ z[1].T / 10
        loss = nn.functional.cross_entropy(scores, torch.arange(64)) + 0.01 * encoder.weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before, after = (weight.norm(dim=1) for weight in (encoder.weight.detach(), head(encoder.weight.detach().T).T))
    assert before.max() / before.min() < after.max() / after.min()


def test_a_factor_below_1_is_refused():
    with pytest.raises(ValueError) as refusal:
        FixedReweightingHead(0.5)
    assert str(refusal.value) == "fixed_reweighting_head: kappa=0.5 came; give a number at least 1."
