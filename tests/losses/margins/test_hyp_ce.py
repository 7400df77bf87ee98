import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import HypCE

EMBEDDINGS = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 1, 0, 1, 1])


def made(**options):
    torch.manual_seed(0)
    return HypCE(2, 3, **options).double()


def test_without_draws_it_is_cross_entropy_of_the_heads_logits():
    loss = made(pseudo_negatives=False)
    torch.testing.assert_close(loss(EMBEDDINGS, TARGET), F.cross_entropy(loss.head(EMBEDDINGS), TARGET))
    assert len(list(loss.parameters())) == 3


def test_draws_around_the_running_mean_are_a_further_class_in_training_alone():
    loss = made(noise_std=1e-9, momentum=0.75)
    loss(EMBEDDINGS, TARGET, step=0)
    torch.testing.assert_close(loss.mean.double(), EMBEDDINGS.mean(dim=0), rtol=0, atol=1e-6)
    value = loss(EMBEDDINGS + 4, TARGET, step=1)
    mean = EMBEDDINGS.mean(dim=0) + 1
    rows = torch.cat([EMBEDDINGS + 4, mean.expand(5, -1)])
    expected = F.cross_entropy(loss.head(rows), torch.cat([TARGET, torch.full((5,), 2)]))
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    # A second batch of the step begins from the mean before it, and evaluation changes nothing.
    loss(EMBEDDINGS + 8, TARGET, step=1)
    torch.testing.assert_close(loss.mean.double(), EMBEDDINGS.mean(dim=0) + 2, rtol=0, atol=1e-6)
    before = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    known = loss.eval()(EMBEDDINGS, TARGET, step=2)
    torch.testing.assert_close(known, F.cross_entropy(loss.head(EMBEDDINGS), TARGET))
    with torch.no_grad():
        unseen = loss.train()(EMBEDDINGS, TARGET, step=3)
    assert all(torch.equal(buffer, before[name]) for name, buffer in loss.named_buffers())
    assert torch.equal(loss(EMBEDDINGS, TARGET, step=3), unseen)


def test_a_resumed_run_draws_what_an_uninterrupted_one_does():
    whole, begun, resumed = made(), made(), made()
    values = [whole(EMBEDDINGS + step, TARGET, step=step) for step in range(3)]
    assert torch.equal(begun(EMBEDDINGS, TARGET, step=0), values[0])
    resumed.load_state_dict(begun.state_dict())
    assert all(torch.equal(resumed(EMBEDDINGS + step, TARGET, step=step), values[step]) for step in (1, 2))
    others = [made(loss_seed=1)(EMBEDDINGS, TARGET, step=0), made()(EMBEDDINGS, TARGET, step=1)]
    assert not any(torch.equal(other, values[0]) for other in others)


def test_what_is_not_finite_spoils_no_mean():
    loss = made()
    loss(EMBEDDINGS * math.nan, TARGET)
    assert int(loss.at_step) == -1 and not loss.mean.any()
    loss(EMBEDDINGS, TARGET)
    before = loss.mean.clone()
    loss(EMBEDDINGS * math.nan, TARGET)
    assert torch.equal(loss.mean, before)


def test_with_a_small_curvature_the_logits_are_linear():
    head = made(curvature=1e-7, clip_radius=None, pseudo_negatives=False, riemannian_gradient=False).head
    linear = 4 * ((EMBEDDINGS.unsqueeze(1) - head.offsets) * head.normals).sum(dim=-1)
    torch.testing.assert_close(head(EMBEDDINGS), linear, rtol=1e-4, atol=1e-4)


def test_one_class_without_draws_and_another_width_are_refused():
    with pytest.raises(ValueError) as error:
        HypCE(1, 3, pseudo_negatives=False)
    assert str(error.value) == (
        "hyp_ce: num_classes=1 came with pseudo_negatives=False; give at least 2 classes, or have draws beside the one."
    )
    with pytest.raises(ValueError) as error:
        made()(EMBEDDINGS[:, :2], TARGET)
    assert str(error.value) == "hyp_ce: embeddings of shape [5, 2] came with feature_dim=3; give both the same width."
