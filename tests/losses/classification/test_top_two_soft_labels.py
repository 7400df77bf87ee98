import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import TopTwoSoftLabels
from lightning_losses.losses.classification.top_two_soft_labels import top_two

LOGITS = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4).cos()
FIRST, SECOND = torch.tensor([0, 3, 1]), torch.tensor([2, 1, 0])
SHARE = torch.tensor([0.5, 0.8, 1.0], dtype=torch.float64)


def test_it_is_cross_entropy_with_the_two_shares():
    hot = torch.eye(4, dtype=torch.float64)
    soft = SHARE.unsqueeze(-1) * hot[FIRST] + (1 - SHARE.unsqueeze(-1)) * hot[SECOND]
    torch.testing.assert_close(TopTwoSoftLabels()(LOGITS, FIRST, SECOND, SHARE), F.cross_entropy(LOGITS, soft))


@pytest.mark.parametrize("second", [torch.full((3,), -100), FIRST], ids=["none", "the same"])
def test_without_another_class_it_is_cross_entropy(second):
    value = TopTwoSoftLabels()(LOGITS, FIRST, second, SHARE)
    torch.testing.assert_close(value, F.cross_entropy(LOGITS, FIRST))


def test_a_second_class_without_a_share_may_be_masked():
    logits = LOGITS.clone().index_fill(1, torch.tensor([2]), -torch.inf).requires_grad_()
    value = TopTwoSoftLabels()(logits, FIRST, torch.full((3,), 2), torch.ones(3))
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


def test_votes_become_classes_and_shares():
    votes = torch.tensor([[5, 0, 3, 1], [0, 7, 0, 0]])
    first, second, share = top_two(votes)
    assert (first.tolist(), second.tolist(), share.tolist()) == ([0, 1], [2, -100], [0.625, 1.0])
    for of_shares, wanted in zip(top_two(votes / votes.sum(dim=1, keepdim=True)), (first, second, share), strict=True):
        torch.testing.assert_close(of_shares, wanted)
    assert [part.tolist() for part in top_two(torch.zeros(1, 3))] == [[-100], [-100], [1.0]]


def test_votes_for_one_class_are_refused():
    with pytest.raises(ValueError) as error:
        top_two(torch.ones(2, 1))
    wanted = "give [..., classes], those for two classes at least."
    assert str(error.value) == f"top_two: votes of shape [2, 1] came; {wanted}"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"target_share": SHARE - 0.2}, "target_share holds 0.3; give numbers in [0.5, 1]."),
        ({"second_target": SECOND + 3}, "second_target 5 came with 4 classes; give 0 to 3, or ignore_index=-100."),
        (
            {"second_target": SECOND[:2]},
            "second_target of shape [2] came with a target of shape [3]; give both the same.",
        ),
        ({"second_target": SECOND.int()}, "second_target has dtype torch.int32; give int64 class indices."),
    ],
    ids=["share", "class", "shape", "dtype"],
)
def test_what_does_not_fit_is_refused(changed, told):
    given = {"target": FIRST, "second_target": SECOND, "target_share": SHARE, **changed}
    with pytest.raises(ValueError) as error:
        TopTwoSoftLabels()(LOGITS, **given)
    assert str(error.value) == f"top_two_soft_labels: {told}"
