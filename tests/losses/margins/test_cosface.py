import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import UNPG, ArcFace, CosFace, NormalizedSoftmax

COSINES = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tanh()
TARGET = torch.tensor([0, 2, 1, 2])


def test_the_margin_is_taken_from_the_target_alone():
    moved = 7 * (COSINES - 0.3 * F.one_hot(TARGET, 3))
    torch.testing.assert_close(CosFace(margin=0.3, scale=7.0)(COSINES, TARGET), F.cross_entropy(moved, TARGET))


def test_no_margin_is_normalized_softmax():
    torch.testing.assert_close(
        CosFace(margin=0.0, scale=20.0)(COSINES, TARGET), NormalizedSoftmax(temperature=0.05)(COSINES, TARGET)
    )


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float32])
@pytest.mark.parametrize("loss", [ArcFace(), CosFace(), UNPG()], ids=lambda loss: loss.identifier())
def test_a_target_of_another_dtype_is_refused(loss, dtype):
    given = {name: torch.zeros(4, 3) for name in loss.inputs()}
    with pytest.raises(ValueError) as refusal:
        loss(**{**given, "target": torch.ones(4, dtype=dtype)})
    assert str(refusal.value) == f"{loss.identifier()}: target has dtype {dtype}; give int64 class indices."
