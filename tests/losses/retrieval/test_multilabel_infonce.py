import torch

from lightning_losses.losses import MultilabelInfoNCE

LOGITS = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])


def test_value_from_the_definition():
    p = LOGITS.exp() / LOGITS.exp().sum(dim=-1, keepdim=True)
    expected = torch.stack(
        [-row[labels == 1].log().sum() for row, labels in zip(p, LABELS, strict=True)],
    )
    torch.testing.assert_close(MultilabelInfoNCE(reduction="none")(LOGITS, LABELS), expected)


def test_a_label_weighs_by_its_number_and_one_that_is_not_known_is_left_out():
    half = MultilabelInfoNCE(reduction="sum")(LOGITS, LABELS / 2)
    torch.testing.assert_close(half, MultilabelInfoNCE(reduction="sum")(LOGITS, LABELS) / 2)
    unknown = LABELS.index_fill(1, torch.tensor([3]), -100)
    others = torch.tensor([0, 1, 2, 4])
    without = MultilabelInfoNCE()(LOGITS[:, others], LABELS[:, others])
    torch.testing.assert_close(MultilabelInfoNCE()(LOGITS, unknown), without)
