import pytest
import torch

from lightning_losses.losses import TripletOHNM

SCORES = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([1, 0, 4])


@pytest.mark.parametrize("weigh", [False, True])
def test_value_from_the_definition(weigh):
    values = []
    for row, own in zip(SCORES, TARGET.tolist(), strict=True):
        worst = sorted((score for column, score in enumerate(row) if column != own), reverse=True)[:2]
        over = [max(torch.zeros(()), score - row[own] + 0.3) for score in worst]
        weights = torch.stack([score / 0.1 if cost > 0 else 0 * score for score, cost in zip(worst, over, strict=True)])
        weights = weights.softmax(dim=0) if weigh else torch.ones(2)
        values.append(sum(weight * cost for weight, cost in zip(weights, over, strict=True)) / 2)
    loss = TripletOHNM(k=2, weigh=weigh, reduction="none")
    torch.testing.assert_close(loss(SCORES, TARGET), torch.stack(values))


def test_further_right_columns_are_no_negatives_and_fewer_than_k_are_all():
    hot = torch.zeros(3, 5).scatter(1, TARGET.unsqueeze(1), 1.0)
    hot[:, 2], hot[0, 3] = 1.0, -100.0
    others = SCORES[1:][:, [0, 1, 3, 4]]
    expected = TripletOHNM(k=3, reduction="none")(others, torch.tensor([0, 3]))
    loss = TripletOHNM(k=10, reduction="none")
    torch.testing.assert_close(loss(SCORES, TARGET, hot)[1:], expected)
    # The first row's own column, one that is right and one that is not known leave two.
    torch.testing.assert_close(loss(SCORES, TARGET, hot)[0], loss(SCORES[:1, [1, 0, 4]], torch.tensor([0]))[0])
    assert loss(SCORES, TARGET, torch.ones(3, 5)).tolist() == [0, 0, 0]


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"^triplet_ohnm: multi_hot of shape \[3, 4\] came with logits of shape"):
        TripletOHNM()(SCORES, TARGET, torch.ones(3, 4))
