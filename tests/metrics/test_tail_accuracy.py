import pytest
import torch

from lightning_losses.metrics import subgroup_accuracy, tail_accuracy


def test_the_mean_of_the_lowest_classes():
    accuracy = torch.tensor([0.9, 0.1, 0.5, 0.7, 0.3, 1.0, 0.8, 0.6, 0.4, 0.2], dtype=torch.float64)
    assert tail_accuracy(accuracy).item() == pytest.approx((0.1 + 0.2 + 0.3) / 3)
    assert tail_accuracy(accuracy, share=0.31).item() == pytest.approx((0.1 + 0.2 + 0.3 + 0.4) / 4)
    assert tail_accuracy(accuracy, share=1.0) == accuracy.mean()
    assert tail_accuracy(accuracy, share=0.01).item() == pytest.approx(0.1)


def test_classes_without_samples_are_left_out():
    right, target = torch.tensor([True, False, True, True]), torch.tensor([0, 0, 3, 3])
    of_class = subgroup_accuracy(right, target, 5)
    assert tail_accuracy(of_class, share=0.5) == 0.5
    assert tail_accuracy(torch.full((3,), torch.nan)).isnan()


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="^tail_accuracy: share="):
        tail_accuracy(torch.ones(3), share=share)
    with pytest.raises(ValueError, match=r"^tail_accuracy: accuracies of shape \[2, 3\] came; give \[classes\]"):
        tail_accuracy(torch.ones(2, 3))
