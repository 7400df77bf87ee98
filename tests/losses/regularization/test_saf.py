import pytest
import torch
from hypothesis import given

from lightning_losses.losses import SAF
from tests.losses.strategies import gradient, pairs

SOON = {"start": 0, "coefficient": 1.0, "temperature": 2.0}


@given(pairs())
def test_value_from_the_definition(pair):
    p, q = (scores.div(2).softmax(dim=-1) for scores in (pair.teacher_logits, pair.logits))
    expected = 4 * (p * (p / q).log()).sum(dim=-1).mean()
    torch.testing.assert_close(SAF(**SOON)(pair.logits, pair.teacher_logits, 0), expected)


def test_the_present_logits_are_no_way_off():
    logits = torch.randn(4, 3, dtype=torch.float64)
    assert SAF(**SOON)(logits, logits.clone(), 0).abs() < 1e-15
    assert gradient(SAF(**SOON), logits, logits.clone(), 0).abs().max() < 1e-15


@pytest.mark.parametrize(("epoch", "there"), [(5, False), (6, True), (7, True), (8, False)])
def test_the_term_is_there_between_two_epochs(epoch, there):
    logits = torch.tensor([[2.0, 0.0]])
    assert bool(SAF(start=6, end=8)(logits, -logits, epoch)) == there
    assert bool(SAF(start=6, end=8)(logits, -logits, torch.tensor(epoch))) == there


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_ring_holds_the_logits_of_some_epochs_ago(dtype):
    loss, kept = SAF(lag=2, kept_as=dtype), {}
    scores = [torch.tensor([[70000.0 + epoch, 70000.0, -torch.inf]]) for epoch in range(8)]
    row = {"logits": scores[0], "epoch": 0}
    kept = {name: value.unsqueeze(0) for name, value in loss.fresh(row).items()}
    told = {}
    for epoch, logits in enumerate(scores):
        if epoch != 3:  # then the sample is left out
            told[epoch] = loss.recall(kept.get, {"logits": logits, "epoch": epoch})
            kept |= loss.remember(kept.get, {"logits": logits, "epoch": epoch})
    # What was not seen two epochs ago is as it is now.
    then = {0: 0, 1: 1, 2: 0, 4: 2, 5: 5, 6: 4, 7: 5}
    assert all(torch.equal(told[now].softmax(-1), scores[ago].softmax(-1)) for now, ago in then.items())
    assert len(kept) == 6 and kept["logits_0"].dtype == getattr(torch, dtype)
