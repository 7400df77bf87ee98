import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import HybridMultilabel
from lightning_losses.losses.multi_label.hybrid_multilabel import correlations

LOGITS = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(4, 3)
LABELS = torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.float64)
FEATURES = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_value_from_the_definition():
    error, weight = LOGITS.sigmoid() - LABELS, torch.tensor([0.9, 2.0, 0.7], dtype=torch.float64)
    entropy = (weight * F.binary_cross_entropy_with_logits(LOGITS, LABELS, reduction="none")).mean(dim=-1)
    together = torch.corrcoef(LABELS.T).abs().fill_diagonal_(0)
    correlated = torch.stack([one @ together @ one for one in error]) / 9
    unit = F.normalize(FEATURES)
    contrast = []
    for i in range(4):
        others = [j for j in range(4) if j != i]
        shared = [torch.minimum(LABELS[i], LABELS[j]).sum() for j in others]
        either = [torch.maximum(LABELS[i], LABELS[j]).sum() for j in others]
        share = torch.stack([s / e if e else s for s, e in zip(shared, either, strict=True)])
        log_q = torch.stack([unit[i] @ unit[j] / 0.5 for j in others]).log_softmax(dim=0)
        contrast.append(-(share * log_q).sum() / share.sum() if share.sum() else torch.zeros(()).double())
    loss = HybridMultilabel([0.9, 2.0, 0.7], 0.3, 0.7, 0.5, reduction="none")
    expected = entropy + 0.3 * correlated + 0.7 * torch.stack(contrast)
    # Weights too are in double precision.
    torch.testing.assert_close(loss(LOGITS, LABELS, FEATURES), expected, rtol=1e-12, atol=0.0)


def test_a_sample_of_which_nothing_is_known_is_as_if_absent():
    labels = LABELS.clone()
    labels[2] = -100
    features = FEATURES.clone()
    features[2] = torch.nan
    kept = [0, 1, 3]
    value = HybridMultilabel()(LOGITS, labels, features)
    torch.testing.assert_close(value, HybridMultilabel()(LOGITS[kept], LABELS[kept], FEATURES[kept]))


def test_features_of_any_length_compare_alike_and_of_none_learn_nothing():
    logits, labels, features = LOGITS.float(), LABELS.float(), FEATURES.float()
    expected = HybridMultilabel()(logits, labels, features)
    for factor in (1e-30, 1e30):
        torch.testing.assert_close(HybridMultilabel()(logits, labels, features * factor), expected)
    features[0] = 0
    (gradient,) = torch.autograd.grad(HybridMultilabel()(logits, labels, features.requires_grad_()), features)
    assert not gradient[0].any() and gradient[1:].any()


def test_features_without_a_number_are_refused():
    with pytest.raises(
        ValueError, match=r"features of shape \[4, 0\] came; give vectors \[B, D\] with D of at least 1"
    ):
        HybridMultilabel()(LOGITS, LABELS, FEATURES[:, :0])


@pytest.mark.parametrize("share", [0.1, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_that_are_constant_but_for_rounding_correlate_with_nothing(share, dtype):
    for samples in range(2, 12):
        labels = torch.full((samples, 2), share, dtype=dtype)
        assert not correlations(labels, torch.ones_like(labels)).any()


@pytest.mark.parametrize("weight", [[1.0, 2.0], [1.0, -1.0, 1.0]])
def test_weights_that_do_not_fit_are_refused(weight):
    told = " of 2 came with 3 labels; give one for each." if len(weight) == 2 else (
        "=[1.0, -1.0, 1.0] came; give finite numbers of at least 0."
    )  # fmt: skip
    with pytest.raises(ValueError) as error:
        HybridMultilabel(weight)(LOGITS, LABELS, FEATURES)
    assert str(error.value) == f"hybrid_multilabel: class_weight{told}"
