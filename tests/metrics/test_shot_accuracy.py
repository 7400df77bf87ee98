import pytest
import torch

from lightning_losses.metrics import shot_accuracy, shot_groups


def test_each_class_of_a_group_counts_the_same():
    # Two classes have many samples; the second has no sample here, the fourth none in training.
    counts = [101, 1000, 100, 0, 20, 19]
    target = torch.tensor([0, 0, 2, 2, 2, 2, 4, 3, 5, 5, -100])
    prediction = torch.tensor([0, 1, 2, 2, 2, 0, 0, 3, 5, 0, 0])
    accuracy = shot_accuracy(prediction, target, counts)
    assert [value.item() for value in accuracy] == [1 / 2, (3 / 4 + 0) / 2, (1 + 1 / 2) / 2]
    assert shot_groups(counts, many=1000, few=101).tolist() == [1, 1, 2, 2, 2, 2]
    assert shot_accuracy(prediction, target, counts, few=0).few.isnan()


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (lambda: shot_groups([1, -1]),
         "shot_groups: class_counts=[1.0, -1.0] came; give a number of at least 0 for each class."),
        (lambda: shot_groups(3), "shot_groups: class_counts=3.0 came; give a number of at least 0 for each class."),
        (lambda: shot_groups([3, 1], many=10, few=20),
         "shot_groups: few=20 came with many=10; give a number of few that is at most many."),
        (lambda: shot_accuracy(torch.tensor(0), torch.tensor([0, 1]), [3, 1]),
         "shot_accuracy: predictions of shape [] came with a target of shape [2]; give a class of each sample for "
         "both."),
        (lambda: shot_accuracy(torch.tensor([0]), torch.tensor([2]), [3, 1]),
         "subgroup_accuracy: group 2 came with num_groups=2; give 0 to 1."),
    ],
    ids=["negative", "number", "limits", "shapes", "class"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(attempt, told):
    with pytest.raises(ValueError) as raised:
        attempt()
    assert str(raised.value) == told
