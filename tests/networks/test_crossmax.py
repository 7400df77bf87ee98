import pytest
import torch
from torch import nn

from lightning_losses.networks.crossmax import CrossMaxEnsemble, crossmax

LOGITS = torch.randn(6, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_value_from_the_definition():
    rows = []
    for one in LOGITS.tolist():
        below = [[z - max(member) for z in member] for member in one]
        columns = [[z - max(column) for z in column] for column in zip(*below, strict=True)]
        rows.append([sorted(column, reverse=True)[2] for column in columns])
    torch.testing.assert_close(crossmax(LOGITS, k=3), torch.tensor(rows, dtype=torch.float64))


def test_a_member_may_shift_its_logits_and_members_may_change_places():
    shift = torch.arange(24, dtype=torch.float64).view(6, 4, 1)
    torch.testing.assert_close(crossmax(LOGITS + shift), crossmax(LOGITS))
    assert torch.equal(crossmax(LOGITS.flip(1)), crossmax(LOGITS))


def test_a_confident_member_alone_decides_nothing():
    agreed = torch.tensor([[0.0, 2.0, 1.0]]).repeat(4, 1)
    agreed[0] = torch.tensor([1e4, 0.0, 0.0])
    assert crossmax(agreed, k=3).argmax() == 1
    assert agreed.mean(dim=0).argmax() == 0


def test_masked_classes_stay_masked_and_others_are_finite():
    masked = LOGITS.clone()
    masked[..., 2] = -torch.inf
    masked[:, 0, 3] = -torch.inf
    scores = crossmax(masked.requires_grad_())
    assert torch.isneginf(scores[..., 2]).all()
    rest = scores[..., [0, 1, 3, 4]]
    assert rest.isfinite().all()
    assert torch.autograd.grad(rest.sum(), masked)[0].isfinite().all()


def test_the_ensemble_calls_every_member():
    members = [nn.Linear(2, 3).double() for _ in range(3)]
    inputs = torch.ones(4, 2, dtype=torch.float64)
    expected = crossmax(torch.stack([member(inputs) for member in members], dim=1), k=2)
    assert torch.equal(CrossMaxEnsemble(members, k=2)(inputs), expected)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: crossmax(LOGITS, k=1), "crossmax: k=1 came"),
        (lambda: crossmax(LOGITS, k=5), r"crossmax: logits of shape \[6, 4, 5\] came with k=5; give"),
        (
            lambda: CrossMaxEnsemble([nn.Linear(2, 3), nn.Linear(2, 4)], k=2)(torch.zeros(5, 2)),
            r"CrossMaxEnsemble: the members gave logits of shapes \[\[5, 3\], \[5, 4\]\]; give",
        ),
        (lambda: CrossMaxEnsemble([nn.Identity()] * 2), "CrossMaxEnsemble: 2 members came with k=3; give at least 3"),
    ],
    ids=["zeros", "few rows", "other classes", "few members"],
)
def test_what_does_not_fit_is_refused(call, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        call()
