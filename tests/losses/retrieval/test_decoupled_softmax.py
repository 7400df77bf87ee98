import torch

from lightning_losses.losses import DecoupledSoftmax, MultilabelInfoNCE
from tests.losses.strategies import gradient

LOGITS = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])


def test_value_from_the_definition():
    expected = [
        sum(
            -torch.log(row[j].exp() / (row[j].exp() + row[labels == 0].exp().sum())) for j in labels.nonzero().flatten()
        )
        / max(int(labels.sum()), 1)
        for row, labels in zip(LOGITS, LABELS, strict=True)
    ]
    value = DecoupledSoftmax(reduction="none")(LOGITS, LABELS)
    torch.testing.assert_close(value, torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in expected]))
    # All labels are there, or none: nothing to be compared with.
    assert value[2:].tolist() == [0, 0]


def test_one_label_is_cross_entropy_and_infonce_too():
    target = torch.tensor([2, 0, 5, 1])
    hot = torch.nn.functional.one_hot(target, 6)
    expected = torch.nn.functional.cross_entropy(LOGITS, target)
    torch.testing.assert_close(DecoupledSoftmax()(LOGITS, hot), expected)
    torch.testing.assert_close(MultilabelInfoNCE()(LOGITS, hot), expected)


def test_no_label_is_pushed_down_for_another_of_its_sample():
    """By InfoNCE a label is, once it is likely enough: then a step against the gradient lowers its score."""
    logits = torch.tensor([[9.0, 0.0, 0.0, -1.0]], dtype=torch.float64)
    labels = torch.tensor([[1, 1, 0, 0]])
    assert gradient(DecoupledSoftmax(), logits, labels)[0, 0] < 0 < gradient(MultilabelInfoNCE(), logits, labels)[0, 0]
    raised = logits + torch.tensor([[0.0, 3.0, 0.0, 0.0]])
    for loss, blind in ((DecoupledSoftmax(), True), (MultilabelInfoNCE(), False)):
        assert torch.equal(gradient(loss, logits, labels)[0, 0], gradient(loss, raised, labels)[0, 0]) is blind


def test_labels_that_are_not_known_are_left_out_of_the_denominator():
    unknown = LABELS.clone()
    unknown[:, 3] = -100
    torch.testing.assert_close(
        DecoupledSoftmax(reduction="none")(LOGITS, unknown)[:2],
        DecoupledSoftmax(reduction="none")(LOGITS[:2, [0, 1, 2, 4, 5]], LABELS[:2, [0, 1, 2, 4, 5]]),
    )
