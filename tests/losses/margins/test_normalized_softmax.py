import torch
import torch.nn.functional as F

from lightning_losses.losses import NormalizedSoftmax
from lightning_losses.networks.margin_head import MarginHead

COSINES = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tanh()
TARGET = torch.tensor([0, 2, 1, 2])


def test_it_is_cross_entropy_of_cosines_over_the_temperature():
    expected = F.cross_entropy(COSINES / 0.2, TARGET)
    torch.testing.assert_close(NormalizedSoftmax(temperature=0.2)(COSINES, TARGET), expected)


def test_turning_embeddings_and_class_vectors_together_changes_nothing():
    torch.manual_seed(0)
    head, embeddings = MarginHead(4, 3).double(), torch.randn(4, 4, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    before = NormalizedSoftmax()(head(embeddings), TARGET)
    head.weight.data @= turn
    torch.testing.assert_close(NormalizedSoftmax()(head(3 * embeddings @ turn), TARGET), before)
