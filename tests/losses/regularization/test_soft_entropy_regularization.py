import math

import pytest
import torch

from lightning_losses.losses import SoftEntropyRegularization

LOGITS = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LOSS = SoftEntropyRegularization(old_classes=3, temperature=0.7)


def test_value_from_the_definition_over_both_views():
    mean = (LOGITS.flatten(0, 1) / 0.7).softmax(dim=-1).mean(dim=0).tolist()

    def gap(shares):
        return math.log(len(shares)) + sum(s / sum(shares) * math.log(s / sum(shares)) for s in shares)

    wanted = 2 * gap([sum(mean[:3]), sum(mean[3:])]) + gap(mean[:3]) + gap(mean[3:])
    assert LOSS(LOGITS[0], LOGITS[1]).item() == pytest.approx(wanted, rel=1e-12)
    assert LOSS(LOGITS).item() == pytest.approx(wanted, rel=1e-12)


def test_0_where_groups_and_classes_are_uniform_and_least_there():
    uniform = torch.tensor([1 / 6] * 3 + [1 / 4] * 2, dtype=torch.float64)
    loss = SoftEntropyRegularization(old_classes=3, temperature=1.0)
    assert abs(loss(uniform.log().unsqueeze(0)).item()) < 1e-15
    # One-hot rows whose mean is uniform are as good: only the mean counts.
    rows = 1e3 * torch.eye(5)[[0, 1, 2, 3, 3, 3, 4, 4, 4, 0, 1, 2]]
    assert loss(rows).item() == pytest.approx(0.0, abs=1e-6)
    assert LOSS(LOGITS).item() > 0


@pytest.mark.parametrize("ruled_out", [-torch.inf, -1e3])
def test_one_old_class_alone_has_the_most_of_both(ruled_out):
    logits = torch.full((2, 5), ruled_out).index_fill(1, torch.tensor([1]), 0.0).requires_grad_()
    value = LOSS(logits)
    value.backward()
    assert value.item() == pytest.approx(2 * math.log(2) + math.log(3), rel=1e-6)
    assert bool(logits.grad.isfinite().all())


def test_what_does_not_fit_is_refused():
    for call, message in (
        (lambda: LOSS(LOGITS[0, :, :3]), "old_classes=3 came with 3 classes; give fewer, so that there are new ones."),
        (
            lambda: LOSS(LOGITS[0], LOGITS[1, :2]),
            "logits_b of shape [2, 5] came with logits of shape [4, 5]; give both the same shape.",
        ),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == f"soft_entropy_regularization: {message}"
