import torch
import torch.nn.functional as F

from lightning_losses.losses import SelectivePseudoLabel

SURE, OTHER, UNSURE = [4.0, 0.0, -1.0], [-1.0, 5.0, 0.0], [0.3, 0.2, 0.1]


def value(own, teacher, **options):
    return SelectivePseudoLabel(**options)(*(torch.tensor([row], dtype=torch.float64) for row in (own, teacher)))


def cross_entropy(own, label):
    return F.cross_entropy(torch.tensor([own], dtype=torch.float64), torch.tensor([label]))


def test_the_surer_one_gives_the_label():
    torch.testing.assert_close(value(SURE, OTHER), cross_entropy(SURE, 1))
    torch.testing.assert_close(value(OTHER, SURE), cross_entropy(OTHER, 1))
    torch.testing.assert_close(value(UNSURE, OTHER), cross_entropy(UNSURE, 1))
    # Equally sure of unlike classes: the teacher's.
    torch.testing.assert_close(value(SURE, SURE[::-1]), cross_entropy(SURE, 2))


def test_neither_sure_and_of_unlike_classes_teaches_nothing():
    own = torch.tensor([UNSURE, SURE], requires_grad=True)
    teacher = torch.tensor([UNSURE[::-1], OTHER])
    rows = SelectivePseudoLabel(reduction="none")(own, teacher)
    assert rows[0] == 0 < rows[1]
    (gradient,) = torch.autograd.grad(rows.sum(), own)
    assert not gradient[0].any() and gradient[1].abs().max() > 0.1


def test_where_both_find_the_same_class_the_network_is_drawn_to_the_teacher():
    own, teacher = [1.0, 0.0, 0.0], [2.0, 0.0, 1.0]
    p, q = (torch.tensor(row, dtype=torch.float64).softmax(0) for row in (teacher, own))
    torch.testing.assert_close(value(own, teacher, consistency=2.0), 2 * (p * (p / q).log()).sum())
    torch.testing.assert_close(value(own, teacher, threshold=0.0, consistency=0.0), cross_entropy(own, 0))
    assert value(own, own) == 0
