import pytest
import torch

from lightning_losses.samplers import difference_sampling, difference_scores


def test_the_largest_differences_are_kept_in_corpus_order():
    teacher, reference = torch.rand(20), torch.rand(20)
    kept = difference_sampling(teacher, reference, ratio=0.4)
    scores = difference_scores(teacher, reference)
    left = torch.ones(20, dtype=torch.bool).scatter(0, kept, False)
    assert len(kept) == 8 and torch.equal(kept, kept.sort().values)
    assert scores[kept].min() >= scores[left].max()


def test_the_ends_of_the_ratio():
    teacher, reference = torch.rand(7), torch.rand(7)
    assert torch.equal(difference_sampling(teacher, reference, ratio=1.0), torch.arange(7))
    assert len(difference_sampling(teacher, reference, ratio=0.0)) == 0
    assert len(difference_sampling(teacher, reference, ratio=0.5)) == 3


def test_shifts_do_not_matter_and_ties_keep_the_first():
    teacher = torch.tensor([1.0, 1.0, 1.0, 0.0])
    reference = torch.tensor([2.0, 2.0, 2.0, 5.0])
    assert difference_sampling(teacher, reference).tolist() == [0, 3]
    assert difference_sampling(teacher + 8, reference).tolist() == [0, 3]


@pytest.mark.parametrize(
    "teacher, reference, ratio, message",
    [
        (torch.tensor([1.0, torch.nan]), torch.ones(2), 0.5, "scores hold NaN"),
        (torch.ones(2), torch.ones(3), 0.5, r"reference_nll of shape \[3\]"),
        (torch.ones(2), torch.ones(2), 1.5, "ratio=1.5"),
    ],
)
def test_bad_input_is_refused(teacher, reference, ratio, message):
    with pytest.raises(ValueError, match=f"^difference_sampling: {message}"):
        difference_sampling(teacher, reference, ratio=ratio)
