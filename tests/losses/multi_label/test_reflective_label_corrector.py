import pytest
import torch

from lightning_losses.losses import MultiGrainedFocal, ReflectiveLabelCorrector

COUNTS = [40, 10, 5]
LOGITS = torch.tensor([[4.0, -3, 0], [1.5, -2, 3], [-1, -4, -2]], dtype=torch.float64)
LABELS = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, -100]])
# The first label of two samples is likely, but of the second not above the mean of the batch; a margin of 0.
CORRECTED = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 0, -100]])


def test_on_corrected_labels_it_is_the_multi_grained_focal_loss_with_their_counts():
    loss = ReflectiveLabelCorrector(COUNTS, margin=0.0)
    focal = MultiGrainedFocal([42, 10, 5], gamma_neg=3.0, reduction="sum")
    torch.testing.assert_close(loss(LOGITS, LABELS, 1), focal(LOGITS, CORRECTED) / 5)


def test_before_its_first_epoch_it_is_0_and_adds_nothing():
    loss, logits = ReflectiveLabelCorrector(COUNTS, start=2), LOGITS.clone().requires_grad_()
    value = loss(logits, LABELS, 1)
    value.backward()
    loss.after_step(LOGITS, LABELS, 1)
    assert value == 0 and not logits.grad.any() and not loss.added.any()


def test_a_label_is_added_where_it_is_likely_and_above_the_mean():
    loss = ReflectiveLabelCorrector(COUNTS, margin=0.0)
    assert torch.equal(loss.corrected(LOGITS, LABELS, 1).labels, CORRECTED.clamp(min=0).double())
    even = LOGITS.clone()
    even[:, 0] = 4.0
    assert loss.corrected(even, LABELS, 1).added.tolist() == [0, 0, 0]
    assert ReflectiveLabelCorrector(COUNTS, threshold=0.9).corrected(LOGITS, LABELS, 1).added.tolist() == [1, 0, 0]


def test_counts_are_those_of_the_epoch_and_evaluation_leaves_them():
    loss = ReflectiveLabelCorrector(COUNTS, margin=0.0)
    loss(LOGITS, LABELS, 1)
    assert not loss.added.any()
    for epoch, added in ((1, 2), (1, 4), (2, 2)):
        loss.after_step(LOGITS, LABELS, epoch)
        assert loss.added.tolist() == [added, 0, 0]
    again = ReflectiveLabelCorrector(COUNTS, margin=0.0)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(LOGITS, LABELS, 2), loss(LOGITS, LABELS, 2))
    assert not torch.equal(again(LOGITS, LABELS, 2), again(LOGITS, LABELS, 3))


def test_counts_of_other_labels_are_refused():
    with pytest.raises(ValueError) as error:
        ReflectiveLabelCorrector([3, 2])(LOGITS, LABELS, 1)
    assert str(error.value) == (
        "reflective_label_corrector: logits of 3 classes came with class_counts of 2; give one number for each class."
    )
