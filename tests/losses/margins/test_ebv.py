import torch
import torch.nn.functional as F

from lightning_losses.losses import EBV
from lightning_losses.networks.margin_head import MarginHead

TARGET = torch.tensor([0, 6, 3])


def test_it_is_smoothed_cross_entropy_of_the_cosines_with_a_basis_that_nothing_trains():
    torch.manual_seed(0)
    head, features = MarginHead(5, 7, fixed=True), torch.randn(3, 5)
    assert not list(head.parameters()) and "weight" in head.state_dict()
    cosines = F.normalize(features, dim=-1) @ head.weight.T
    expected = F.cross_entropy(cosines / 0.07, TARGET, label_smoothing=0.1)
    torch.testing.assert_close(EBV()(head(features), TARGET), expected)


def test_another_order_of_the_basis_only_renames_the_classes():
    cosines, order = torch.randn(3, 7).tanh(), torch.randperm(7)
    torch.testing.assert_close(EBV()(cosines[:, order], order.argsort()[TARGET]), EBV()(cosines, TARGET))
