import pytest
import torch

from lightning_losses.losses import Asymmetric, MultiGrainedFocal

LOGITS = torch.linspace(-3, 3, 6, dtype=torch.float64).reshape(2, 3)
LABELS = torch.tensor([[1.0, 0, 0], [0, 1, 1]], dtype=torch.float64)


def test_equal_counts_are_the_asymmetric_loss_with_an_exponent_more():
    value = MultiGrainedFocal([7, 7, 7], gamma_pos=1.0, gamma_neg=3.0)(LOGITS, LABELS)
    assert torch.equal(value, Asymmetric(gamma_pos=1.0, gamma_neg=4.0)(LOGITS, LABELS))


def test_each_label_is_weighed_by_how_rare_it_is():
    counts = torch.tensor([100.0, 10.0, 1.0], dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for label, weight in enumerate((1 - torch.log(counts / 100)) ** 0.5):
        alone = Asymmetric(gamma_pos=0.0, gamma_neg=2.0 + weight.item())
        expected += weight * alone(LOGITS[:, label : label + 1], LABELS[:, label : label + 1])
    # Absent labels count as one sample.
    for given in ([100, 10, 1], [100, 10, 0]):
        loss = MultiGrainedFocal(given, gamma_neg=2.0, power=0.5)
        torch.testing.assert_close(loss(LOGITS, LABELS), expected)


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ([3, -1, 2], "class_counts=[3, -1, 2] came; give a number of at least 0 for each class, not all of them 0."),
        ([3, 2], "logits of 3 classes came with class_counts of 2; give one number for each class."),
        (None, "no class counts are known; give class_counts=[...], a number for each class, or the trainer the "
         "callback ClassCounts, which counts the training set."),
    ],
)  # fmt: skip
def test_counts_that_do_not_fit_are_refused(counts, told):
    with pytest.raises(ValueError) as error:
        MultiGrainedFocal(counts)(LOGITS, LABELS)
    assert str(error.value) == f"multi_grained_focal: {told}"
