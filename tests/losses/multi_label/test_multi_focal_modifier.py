import pytest
import torch

from lightning_losses.losses import MultiFocalModifier, MultiGrainedFocal

LOGITS = torch.linspace(-3, 3, 6, dtype=torch.float64).reshape(2, 3)
LABELS = torch.tensor([[1.0, 0, 0], [0, 1, 1]], dtype=torch.float64)
TOGETHER = [[4, 0, 1], [0, 3, 2], [1, 2, 5]]


def test_value_from_the_definition():
    columns = torch.tensor(TOGETHER, dtype=torch.float64) / torch.tensor([5.0, 5.0, 8.0])
    weight = (1 - torch.log(torch.tensor([4.0, 3.0, 5.0], dtype=torch.float64) / 5)) ** (1 / 3)
    total = 0.0
    for z, t in zip(LOGITS, LABELS, strict=True):
        attended = columns[t == 1].mean(dim=0)
        attended /= attended.sum()
        p, q = z.sigmoid() * (1 - attended), (1 - z.sigmoid() + 0.05).clamp(max=1)
        q = torch.where(attended > 0, (1.2 * q).clamp(max=1), q)
        has, lacks = (1 - p) * p.log(), (1 - q) ** (2 + weight) * q.log()
        total -= (weight * torch.where(t == 1, has, lacks)).sum()
    loss = MultiFocalModifier(TOGETHER, gamma_pos=1.0, gamma_neg=2.0, reduction="sum")
    torch.testing.assert_close(loss(LOGITS, LABELS), total)


def test_a_sample_without_labels_attends_to_none():
    nothing = torch.zeros_like(LABELS)
    alone = MultiGrainedFocal([4, 3, 5], gamma_neg=3.0, power=1 / 3)
    torch.testing.assert_close(MultiFocalModifier(TOGETHER)(LOGITS, nothing), alone(LOGITS, nothing))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ([[1, 2]],),
            "co_occurrence=[[1, 2]] came; give [C][C] numbers, for each two labels how many samples have both.",
        ),
        ((TOGETHER, [1, 2]), "class_counts of 2 labels came with co_occurrence of 3; give both of the same labels."),
    ],
)
def test_counts_that_do_not_fit_are_refused(given, told):
    with pytest.raises(ValueError) as error:
        MultiFocalModifier(*given)
    assert str(error.value) == f"multi_focal_modifier: {told}"
