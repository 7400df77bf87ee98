import pytest
import torch

from lightning_losses.data.topk_soft_label import restore_soft_label


@pytest.mark.parametrize("kind", ["spread", "renormalise"])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_labels_sum_to_one(kind, k):
    stored = torch.randn(5, 6, dtype=torch.float64).softmax(dim=-1).topk(k)
    label = restore_soft_label(stored.indices, stored.values, 6, kind=kind)
    torch.testing.assert_close(label.sum(dim=-1), torch.ones(5, dtype=torch.float64))
    if kind == "spread":
        assert torch.equal(label.gather(-1, stored.indices), stored.values)


def test_all_classes_are_restored_exactly():
    probabilities = torch.randn(2, 3, 6).softmax(dim=-1)
    stored = probabilities.topk(6)
    assert torch.equal(restore_soft_label(stored.indices, stored.values, 6), probabilities)


@pytest.mark.parametrize("kind", ["spread", "renormalise"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_missing_keeps_its_digits_in_half_precision(dtype, kind):
    index, value = torch.tensor([[1, 4, 2]]), torch.tensor([[0.75, 0.2, 0.0487]]).to(dtype)
    label = restore_soft_label(index, value, 900, kind=kind)
    torch.testing.assert_close(
        label.double(), restore_soft_label(index, value.double(), 900, kind=kind), rtol=2e-4, atol=0
    )


def test_renormalised_labels_hold_the_stored_classes_alone():
    label = restore_soft_label(torch.tensor([[1, 3]]), torch.tensor([[0.6, 0.2]]), 4, kind="renormalise")
    torch.testing.assert_close(label, torch.tensor([[0.0, 0.75, 0.0, 0.25]]))


@pytest.mark.parametrize("index, value, classes", [((2, 3), (2, 4), 9), ((2, 3), (2, 3), 2), ((2, 0), (2, 0), 4)])
def test_shapes_that_do_not_fit_are_refused(index, value, classes):
    with pytest.raises(ValueError, match="^topk_soft_label: index of shape"):
        restore_soft_label(torch.zeros(index, dtype=torch.long), torch.zeros(value), classes)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="^topk_soft_label: kind='even'"):
        restore_soft_label(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1), 2, kind="even")
