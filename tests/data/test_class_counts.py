import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_losses.data.class_counts import count_classes, targets_of
from lightning_losses.data.image_data import ImageDataset
from lightning_losses.data.seeded_views import SeededViews

TARGET = [0, 2, 1, 2]


class Listed:
    """As torchvision's data sets hold their targets; it can't be asked for a sample."""

    def __init__(self, targets, **others):
        self.targets = targets
        vars(self).update(others)

    def __len__(self):
        return 4


HELD = TensorDataset(torch.zeros(4, 1), torch.tensor(TARGET))
IMAGES = ImageDataset(torch.zeros(4, 1, 1, 1), torch.tensor(TARGET))


@pytest.mark.parametrize(
    ("dataset", "wanted"),
    [
        (HELD, TARGET),
        (IMAGES, TARGET),
        (Listed(TARGET), TARGET),
        (Listed(np.array(TARGET)), TARGET),
        (Subset(HELD, [3, 0]), [2, 0]),
        (ConcatDataset([HELD, Subset(HELD, [1])]), [*TARGET, 2]),
        (SeededViews(IMAGES, None, views=3), TARGET),
        (Subset(SeededViews(IMAGES, None, views=3), [0, 5]), None),
        (Listed(TARGET, target_transform=abs), None),
        (Listed(["a", "b", "c", "d"]), None),
        (Listed([0, 1]), None),
        (ConcatDataset([HELD, [(0.0, 1)]]), None),
        ([(0.0, 1)], None),
    ],
    ids=[
        "tensors",
        "ours",
        "list",
        "array",
        "subset",
        "joined",
        "views",
        "some views",
        "transformed",
        "words",
        "fewer",
        "part",
        "none",
    ],
)
def test_targets_are_taken_where_a_data_set_holds_them(dataset, wanted):
    held = targets_of(dataset)
    assert held is None if wanted is None else held.tolist() == wanted


def test_classes_of_bytes_are_all_counted():
    counts = count_classes("demo", [torch.tensor([156, 156, 2], dtype=torch.uint8)])
    assert counts[156] == 2 and counts.sum() == 3


def test_probabilities_add_their_mass_and_ignored_targets_nothing():
    batches = [torch.tensor([[0, 255], [2, 2]]), torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]])]
    assert count_classes("demo", batches, ignored=(255,)).tolist() == [1.25, 0.75, 2.0]
    assert count_classes("demo", [torch.tensor([1])], 3).tolist() == [0.0, 1.0, 0.0]
    assert count_classes("demo", [torch.tensor([[1.0, 1.0], [1.0, 0.0]])]).tolist() == [2.0, 1.0]
    assert count_classes("demo", [torch.tensor([-100])]).tolist() == []


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ([-1, 0], "demo: target -1 came; give classes from 0 on, or tell the losses its ignore_index."),
        ([0, 3], "demo: targets of 4 classes came for num_classes=3."),
    ],
    ids=["below", "above"],
)
def test_targets_outside_of_the_classes_are_refused(target, told):
    with pytest.raises(ValueError) as raised:
        count_classes("demo", [torch.tensor(target)], 3)
    assert str(raised.value) == told
