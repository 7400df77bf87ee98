import pytest
import torch
from torch import nn

from lightning_losses.losses.class_prior import ClassPrior, tell_class_counts

KINDS = "class_counts={} came; give a number of at least 0 for each class, not all of them 0."


def test_smoothing_gives_absent_classes_a_share():
    counts = [6.0, 0.0, 0.5]
    assert ClassPrior("demo", counts).smoothed(3).tolist() == [6.0, 1.0, 1.0]
    assert ClassPrior("demo", counts, "add_one").smoothed(3).tolist() == [7.0, 1.0, 1.5]
    assert ClassPrior("demo", counts).log_prior(3).exp().tolist() == pytest.approx([0.75, 0.125, 0.125])


def test_counts_that_were_given_stay():
    given, asked = ClassPrior("demo", [1, 2]), ClassPrior("demo")
    tell_class_counts(nn.ModuleList([given, asked]), torch.tensor([5, 6]))
    assert given.counts.tolist() == [1, 2] and asked.counts.tolist() == [5, 6]


def test_counts_stay_out_of_half_precision_and_come_back_from_a_state():
    prior = ClassPrior("demo", [100_001, 3]).half()
    assert prior.smoothed(2).tolist() == [100_001, 3]
    fresh = ClassPrior("demo")
    fresh.load_state_dict(prior.state_dict())
    assert torch.equal(fresh.counts, prior.counts)
    # One that was saved before it had counts has none.
    fresh.load_state_dict(ClassPrior("demo").state_dict())
    assert not fresh.known


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        (None, "no class counts are known; give class_counts=[...], a number for each class, or the trainer the "
         "callback ClassCounts, which counts the training set."),
        ([1, 2], "logits of 3 classes came with class_counts of 2; give one number for each class."),
        ([1, -1], KINDS.format("[1, -1]")),
        ([0, 0], KINDS.format("[0, 0]")),
        ([1, float("nan")], KINDS.format("[1, nan]")),
        (torch.ones(2, 2), KINDS.format("[[1.0, 1.0], [1.0, 1.0]]")),
        ("many", KINDS.format("many")),
        ([], KINDS.format("[]")),
    ],
    ids=["none", "fewer", "negative", "zeros", "nan", "matrix", "word", "empty"],
)  # fmt: skip
def test_what_are_no_counts_is_refused(counts, told):
    with pytest.raises(ValueError) as raised:
        ClassPrior("demo", counts).smoothed(3)
    assert str(raised.value) == f"demo: {told}"
